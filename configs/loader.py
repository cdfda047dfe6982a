"""YAML files and `key=value` overrides -> a validated `RunConfig`.

Files merge left to right, then the overrides. Everything that can be wrong with the text is one `ConfigError`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from omegaconf import OmegaConf, read_write
from omegaconf.errors import GrammarParseError, OmegaConfBaseException, UnsupportedValueType

from configs.errors import ConfigError
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
    # One layer for all overrides: an environment.id beside environment.kwargs must not drop them, whatever the order.
    last: Any = OmegaConf.merge({}, *(OmegaConf.create(parse_override(text)) for text in overrides))
    layers: list[Any] = [dict(defaults or {}), *(read_yaml(Path(file)) for file in files)]
    layers.append(OmegaConf.to_container(last, resolve=False))
    merged = OmegaConf.structured(RunConfig)
    for layer in layers:
        check_keys(layer, RunConfig, "")
        _drop_kwargs_of_another_environment(merged, layer)
        try:
            merged = OmegaConf.merge(merged, OmegaConf.create(layer))
        except OmegaConfBaseException as error:
            raise _as_config_error(error) from None
    return to_config(merged)


def load_section(schema: type[Section], overrides: Sequence[str], prefix: str) -> Section:
    """Build one section from `key=value` overrides alone; errors name its fields behind `prefix`.

    Raises:
        ConfigError: as `load`.
    """
    layer: Any = OmegaConf.merge({}, *(OmegaConf.create(parse_override(text)) for text in overrides))
    check_keys({str(key): value for key, value in layer.items()}, schema, prefix)
    try:
        section: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), layer))
    except OmegaConfBaseException as error:
        found = _as_config_error(error)
        raise ConfigError(prefix + found.field, found.rule, found.value, found.fix) from None
    assert isinstance(section, schema)
    return section


def _drop_kwargs_of_another_environment(merged: Any, layer: Mapping[str, Any]) -> None:
    """Keyword arguments belong to the environment they were written for: another id starts without them."""
    section = layer.get("environment")
    named = section.get("id") if isinstance(section, Mapping) else None
    if named is not None and named != OmegaConf.to_container(merged.environment)["id"]:  # type: ignore[index,call-overload]
        with read_write(merged.environment):
            merged.environment.kwargs = {}


def to_config(merged: Any) -> RunConfig:
    """Build the frozen dataclasses, which check their bounds.

    Raises:
        ConfigError: a value that must be given is missing, or one is out of bounds.
    """
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(
            missing[0], "must be given", "nothing", f"Put it into a YAML file or add `{missing[0]}=VALUE`."
        )
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise _as_config_error(error) from None
    assert isinstance(config, RunConfig)
    return config


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
        ConfigError: no `=`, an empty key, or a value that is not YAML or that no configuration can hold (a date, say).
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
    try:
        OmegaConf.create(layer)
    except OmegaConfBaseException as error:
        found = _as_config_error(error)
        raise ConfigError(key, found.rule, value, found.fix) from None
    return layer  # type: ignore[no-any-return]


def _as_number(value: Any) -> Any:
    """YAML 1.1 reads `1e-6` as text; take it as the number that was meant."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def check_keys(layer: Mapping[str, Any], schema: Any, prefix: str) -> None:
    """Raise `ConfigError` at the first key of `layer` that the dataclass `schema` lacks, with the nearest name.

    OmegaConf finds these too, but its suggestion names no full path.
    """
    hints = get_type_hints(schema)
    known = [f.name for f in fields(schema)]
    for key, value in layer.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            fix = f"Did you mean {prefix}{near[0]}?" if near else f"Known here: {', '.join(known)}."
            raise ConfigError(f"{prefix}{key}", "must be a known field", value, fix)
        if isinstance(value, Mapping) and hints[key] in (str, str | None):  # OmegaConf would not say in which item
            raise ConfigError(f"{prefix}{key}", "must be a text", value, f"Write `{key}: TEXT`.")
        inner = [t for t in (hints[key], *get_args(hints[key])) if is_dataclass(t)]
        if not inner:
            continue
        if isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    check_keys(item, inner[0], f"{prefix}{key}[{index}].")
        elif isinstance(value, Mapping):
            check_keys(value, inner[0], f"{prefix}{key}.")
        elif not (value is None and hints[key] != inner[0]):
            names = ", ".join(f.name for f in fields(inner[0]))
            raise ConfigError(f"{prefix}{key}", "must be a section", value, f"Give its fields by name: {names}.")


def _as_config_error(error: OmegaConfBaseException) -> ConfigError:
    """OmegaConf's error as ours: its first line is the rule, its `full_key` the field."""
    message = str(error.msg if getattr(error, "msg", None) else error).splitlines()[0]
    field = str(error.full_key or "config")
    if isinstance(error, UnsupportedValueType):
        rule = f"must hold texts, numbers, lists and mappings ({message.lower()})"
        return ConfigError(field, rule, None, "Quote it for YAML, where it is meant as a text.")
    if isinstance(error, GrammarParseError):
        return ConfigError(field, f"cannot be read: {message}", None, r"Write \${ for a text with ${ in it.")
    expected = getattr(error, "ref_type", None)
    value = re.search(r"[Vv]alue '(.*?)'", message)
    wanted = re.search(r"could not be converted to (\w+)|field of type '(\w+)'", message, re.IGNORECASE)
    kind = (wanted.group(1) or wanted.group(2)) if wanted else getattr(expected, "__name__", "the declared type")
    return ConfigError(
        field,
        f"must be of type {kind.lower()}" if wanted or value else f"cannot be read: {message}",
        value.group(1) if value else None,
        "See its docstring in configs/ or `rejuvenate plan` for an example.",
    )


def as_mapping(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain dictionaries and lists (JSON-able)."""
    container = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


__all__ = ["as_mapping", "check_keys", "load", "load_section", "parse_override", "read_yaml", "to_config", "to_yaml"]
