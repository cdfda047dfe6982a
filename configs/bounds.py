"""Bounds of config fields, checked in `__post_init__` of each config dataclass."""

from __future__ import annotations

from collections.abc import Iterable

from configs.errors import ConfigError

LONGEST_S = 1_000_000
"""Longest limit in seconds, 11 days: sockets take none of 25 days or more, and infinity would end no wait."""


def at_least(section: str, field: str, value: float, low: float) -> None:
    """Raise `ConfigError` unless `value >= low`."""
    if not value >= low:
        raise ConfigError(f"{section}{field}", f"must be >= {low}", value, f"Set it to {low} or more.")


def above(section: str, field: str, value: float, low: float) -> None:
    """Raise `ConfigError` unless `value > low`."""
    if not value > low:
        raise ConfigError(f"{section}{field}", f"must be > {low}", value, f"Set it to a number above {low}.")


def seconds(section: str, field: str, value: float) -> None:
    """Raise `ConfigError` unless `0 < value <= LONGEST_S`."""
    above(section, field, value, 0)
    if not value <= LONGEST_S:
        fix = f"Every wait ends: set it to a number of seconds up to {LONGEST_S}."
        raise ConfigError(f"{section}{field}", f"must be <= {LONGEST_S}", value, fix)


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
