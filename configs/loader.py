"""YAML files and `key=value` overrides -> a validated `RunConfig`.

Files merge left to right, then the overrides. Everything that can be wrong with the text is one `ConfigError`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from configs.errors import ConfigError
from configs.layers import check_keys, how_to_write, lay_over, path_in_lists, value_at
from configs.run import RunConfig

Section = TypeVar("Section")


def load(
    files: Sequence[str | Path], overrides: Sequence[str] = (), defaults: Mapping[str, Any] | None = None
) -> RunConfig:
    """Merge `files` left to right, then `overrides`, and validate.

    Args:
        files: YAML files, each with any part of the fields of `RunConfig`.
        overrides: `dotted.key=value`, the value in YAML (`rollout.workers=2`, `sft.save_steps=[10,20]`).
        defaults: sections that all of these override.

    Raises:
        ConfigError: unknown key, wrong type, value out of bounds, missing value, missing or unreadable file.
    """
    layers = [dict(defaults or {}), *(read_yaml(Path(file)) for file in files)]
    # One layer for all overrides: an environment.id beside environment.kwargs must not drop them, whatever the order.
    layers.append(merge_overrides(overrides, RunConfig))
    merged: dict[str, Any] = {}
    for layer in layers:
        check_keys(layer, RunConfig, "")
        merged = lay_over(_without_kwargs_of_another_environment(merged, layer), layer)
    return _build(RunConfig, merged)


def load_section(schema: type[Section], overrides: Sequence[str], prefix: str) -> Section:
    """Build one section from `key=value` overrides alone; errors name its fields behind `prefix`.

    Raises:
        ConfigError: as `load`.
    """
    return _build(schema, merge_overrides(overrides, schema, prefix), prefix)


def merge_overrides(overrides: Sequence[str], schema: Any = None, prefix: str = "") -> dict[str, Any]:
    """Lay `dotted.key=value` texts one over the other.

    Args:
        overrides: as `load` takes them.
        schema: a dataclass that each is held against; None: they may hold anything.
        prefix: put before the names of fields in messages.

    Raises:
        ConfigError: one that does not read so, or that `schema` does not allow.
    """
    merged: dict[str, Any] = {}
    for text in overrides:
        layer = parse_override(text)
        if schema is not None:
            check_keys(layer, schema, prefix)
        merged = lay_over(merged, layer)
    return merged


def _without_kwargs_of_another_environment(merged: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments belong to the environment they were written for: another id starts without them."""
    before, named = merged.get("environment", {}), layer.get("environment", {}).get("id")
    if named is None or named == before.get("id"):
        return merged
    return merged | {"environment": before | {"kwargs": {}}}


def _build(schema: type[Section], plain: dict[str, Any], prefix: str = "") -> Section:
    """Build a frozen dataclass, which checks its bounds.

    Raises:
        ConfigError: a value that must be given is missing, of the wrong type or out of bounds.
    """
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(plain))
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            field = prefix + missing[0]
            fix = f"Put it into a YAML file or add `{field}=VALUE`."
            raise ConfigError(field, "must be given", "nothing", fix)
        built: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise _as_config_error(error, schema, plain, prefix) from None
    assert isinstance(built, schema)
    return built


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML; `load` of it gives an equal `RunConfig`."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML file that holds a mapping.

    Raises:
        ConfigError: the file is missing, not YAML, or no mapping.
    """
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        raise ConfigError("config file", "must be a text file", str(path), "Give a YAML file.") from None
    except OSError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"Did you mean {path.parent / near[0]}?" if near else "Check the path; shipped ones lie in configs/."
        raise ConfigError("config file", f"must be a readable file ({error.strerror})", str(path), hint) from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}" if where else "somewhere"
        raise ConfigError(
            "config file",
            f"must be valid YAML; {line} is not",
            str(path),
            "Check indentation, colons and quotes there.",
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError("config file", "must hold a mapping of sections", str(path), "Start it with `seed: 0`, say.")
    return content


def parse_override(text: str) -> dict[str, Any]:
    """`a.b=value` -> `{"a": {"b": value}}`.

    Raises:
        ConfigError: no `=`, an empty key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError("override", "must read key=value", text, "Write `learner.lr=1e-5`, say; files end in .yaml.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(key, "must have a YAML value", value, "Quote it for YAML.") from None
    layer: Any = _as_number(parsed)
    for part in reversed(key.strip().split(".")):
        layer = {part: layer}
    return layer


def _as_number(value: Any) -> Any:
    """YAML 1.1 reads `1e-6` as text; take it as the number that was meant."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _as_config_error(error: OmegaConfBaseException, schema: Any, plain: Mapping[str, Any], prefix: str) -> ConfigError:
    """OmegaConf's error as ours: its first line is the rule, its `full_key` the field, whose value is in `plain`."""
    message = str(error.msg if getattr(error, "msg", None) else error).splitlines()[0]
    field = error.full_key or ""
    pattern = r"could not be converted to (\w+)|field of type '(\w+)'|is not a valid (\w+)"
    wanted = re.search(pattern, message, re.IGNORECASE)
    rule = f"must be of type {wanted.group(wanted.lastindex or 0).lower()}" if wanted else f"cannot be read: {message}"
    value = value_at(plain, field)
    inside = re.match(r"Value '(.*)' of type", message)
    if value is None and inside:  # of an item of a list of sections OmegaConf names the key alone
        value = inside.group(1)
        field = path_in_lists(plain, field, value) or field
    fix = "See its docstring in configs/ or `rejuvenate plan` for an example."
    fix = (field and how_to_write(schema, field)) or fix
    if isinstance(error, GrammarParseError):
        fix = r"Write \${ for a text with ${ in it."
    return ConfigError(prefix + field if field else prefix.rstrip(".") or "config", rule, value, fix)


def as_mapping(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain dictionaries and lists (JSON-able)."""
    container = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


__all__ = ["as_mapping", "load", "load_section", "merge_overrides", "parse_override", "read_yaml", "to_yaml"]
