"""Layers of a configuration: plain mappings that are held against the dataclasses and laid one over the other."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from configs.errors import ConfigError

MISSING = "???"
"""OmegaConf's value of a field that must still be given."""
EXAMPLES = {str: "TEXT", int: "NUMBER", float: "NUMBER", bool: "true"}
PLAIN = (str, int, float, bool, bytes, NoneType)


def lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `above` into a copy of `below`: mappings key by key, everything else is replaced.

    A value in `above` that is `???` leaves what is below.
    """
    merged = dict(below)
    for key, value in above.items():
        lower = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = lay_over(lower if isinstance(lower, dict) else {}, value)
        elif value != MISSING or key not in merged:
            merged[key] = value
    return merged


def value_at(layer: Any, path: str) -> Any:
    """The value at a dotted path such as `evaluation.sets[0].kwargs`; None where there is none."""
    for part in path.replace("[", ".").replace("]", "").split("."):
        try:
            layer = layer[int(part) if isinstance(layer, list) else part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return layer


def check_keys(layer: Mapping[str, Any], schema: Any, prefix: str) -> None:
    """Raise `ConfigError` at the first key of `layer` that the dataclass `schema` lacks, or value of the wrong kind.

    Kinds are section, list, mapping and single value; what single value it is, OmegaConf checks. It finds wrong keys
    and kinds, too, but not with a full path, a value and a near name, or with a plain TypeError.

    Args:
        layer: any part of the fields of `schema`.
        schema: a dataclass.
        prefix: put before the names of fields in messages.
    """
    hints = get_type_hints(schema)
    known = [f.name for f in fields(schema)]
    for key, value in layer.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            fix = f"Did you mean {prefix}{near[0]}?" if near else f"Known here: {', '.join(known)}."
            raise ConfigError(f"{prefix}{key}", "must be a known field", value, fix)
        check_kind(value, hints[key], f"{prefix}{key}")


def check_kind(value: Any, hint: Any, path: str) -> None:
    """Raise `ConfigError` where a value, or one within it, is not of the kind that a type hint asks for.

    Args:
        value: as YAML gives it.
        hint: of a field of a config dataclass, or of an item of it.
        path: of the field, for messages.
    """
    options = get_args(hint)
    if NoneType in options:  # TYPE | None
        if value is None:
            return
        (hint,) = (option for option in options if option is not NoneType)
    items = get_args(hint)
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            names = ", ".join(f.name for f in fields(hint))
            raise ConfigError(path, "must be a section", value, f"Give its fields by name: {names}.")
        check_keys(value, hint, f"{path}.")
    elif hint is Any:
        _check_plain(value, path)
    elif _stands_for_another(value):
        return
    elif get_origin(hint) is list:
        if not isinstance(value, list):
            raise ConfigError(path, "must be a list", value, _write(path, hint))
        for index, item in enumerate(value):
            check_kind(item, items[0], f"{path}[{index}]")
    elif get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(path, "must be a mapping", value, _write(path, hint))
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(path, "must have texts as keys", dict(value), f"Quote the key: '{key}'.")
            check_kind(item, items[1], f"{path}.{key}")
    elif value is None or not isinstance(value, PLAIN):
        rule = "must be a text" if hint is str else f"must be of type {hint.__name__}"
        raise ConfigError(path, rule, value, _write(path, hint))


def _check_plain(value: Any, path: str) -> None:
    """Raise `ConfigError` at what a field without a declared type cannot hold: a YAML date or set, say."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, f"{path}[{index}]")
    elif not isinstance(value, PLAIN):
        rule = "must be a text, a number, true, false, null, a list or a mapping"
        raise ConfigError(path, rule, value, "Put it in quotes if a text is meant.")


def _stands_for_another(value: Any) -> bool:
    """Whether OmegaConf puts another value in its place: an interpolation `${model.base}`, or one still to be given."""
    return isinstance(value, str) and (value == MISSING or "${" in value)


def _write(path: str, hint: Any) -> str:
    """How to write a value of a type: `steps: [TEXT, ...]`."""
    return f"Write `{path.rpartition('.')[2]}: {_example(hint)}`."


def _example(hint: Any) -> str:
    """A value of a type, as one would write it in YAML."""
    items = get_args(hint)
    if get_origin(hint) is list:
        return f"[{_example(items[0])}, ...]"
    if get_origin(hint) is dict:
        return f"{{NAME: {_example(items[1])}}}"
    if is_dataclass(hint):
        return f"{{{fields(hint)[0].name}: TEXT, ...}}"
    return EXAMPLES.get(hint, "VALUE")
