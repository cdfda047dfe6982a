"""Bounds of config fields, checked in `__post_init__` of each config dataclass."""

from __future__ import annotations

from collections.abc import Iterable

from configs.errors import ConfigError


def at_least(section: str, field: str, value: float, low: float) -> None:
    """Raise `ConfigError` unless `value >= low`."""
    if not value >= low:
        raise ConfigError(f"{section}{field}", f"must be >= {low}", value, f"Set it to {low} or more.")


def above(section: str, field: str, value: float, low: float) -> None:
    """Raise `ConfigError` unless `value > low`."""
    if not value > low:
        raise ConfigError(f"{section}{field}", f"must be > {low}", value, f"Set it to a number above {low}.")


def within(section: str, field: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError` unless `low <= value <= high`."""
    if not low <= value <= high:
        raise ConfigError(
            f"{section}{field}", f"must lie in [{low}, {high}]", value, f"Set it to a number from {low} to {high}."
        )


def one_of(section: str, field: str, value: str, allowed: Iterable[str]) -> None:
    """Raise `ConfigError` unless `value` is one of `allowed`."""
    names = sorted(allowed)
    if value not in names:
        raise ConfigError(f"{section}{field}", f"must be one of {', '.join(names)}", value, f"Choose {names[0]}, say.")
