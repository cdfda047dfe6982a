"""Layers of a configuration: plain mappings that are held against the dataclasses and laid one over the other."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from configs.errors import ConfigError, Shown

MISSING = "???"
"""OmegaConf's value of a field that must still be given."""
EXAMPLES = {str: "TEXT", int: "NUMBER", float: "NUMBER", bool: "true"}
MOST_NAMED = 3
"""Places named where an unknown field may belong to several sections."""
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


def path_in_lists(layer: Any, key: str, text: str, path: str = "") -> str | None:
    """Dotted path of a key within an item of a list, by the text of its value; None where there is none."""
    items = layer.items() if isinstance(layer, Mapping) else enumerate(layer) if isinstance(layer, list) else ()
    for name, value in items:
        place = f"{path}[{name}]" if isinstance(layer, list) else f"{path}.{name}".lstrip(".")
        if name == key and "[" in path and str(value) == text:
            return place
        within = path_in_lists(value, key, text, place)
        if within:
            return within
    return None


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
            meant = near_fields(str(key), schema)
            *others, last = [prefix + path for path in meant] or [""]
            places = f"{', '.join(others)} or {last}" if others else last
            fix = f"Did you mean {places}?" if meant else f"Known here: {', '.join(known)}."
            raise ConfigError(f"{prefix}{key}", "must be a known field", shown(value), fix)
        check_kind(value, hints[key], f"{prefix}{key}")


def near_fields(name: str, schema: Any) -> list[str]:
    """Dotted paths of the fields that an unknown name may mean: called so in a section, else called nearly so."""
    paths = field_paths(schema)
    exact = [path for path in paths if path.rpartition(".")[2] == name]
    if exact:
        return exact[:MOST_NAMED]
    for candidates in ([path for path in paths if "." not in path], paths):
        by_name = {path.rpartition(".")[2]: path for path in reversed(candidates)}
        near = difflib.get_close_matches(name, by_name, n=1)
        if near:
            return [by_name[near[0]]]
    return []


def field_paths(schema: Any, prefix: str = "") -> list[str]:
    """Dotted paths of all fields of a dataclass and its sections."""
    paths = []
    for name, hint in get_type_hints(schema).items():
        paths.append(prefix + name)
        if is_dataclass(given_type(hint)):
            paths += field_paths(given_type(hint), f"{prefix}{name}.")
    return paths


def given_type(hint: Any) -> Any:
    """TYPE of `TYPE | None`; any other hint as it is."""
    options = [option for option in get_args(hint) if option is not NoneType]
    return options[0] if NoneType in get_args(hint) and len(options) == 1 else hint


def shown(value: Any) -> Any:
    """A value as a message shows it: null as YAML writes it."""
    return Shown("null") if value is None else value


def how_to_write(schema: Any, path: str) -> str | None:
    """How to write the field at a dotted path, by its default: `Write `steps: 30`, say; FILE describes it.`."""
    owner, name, kind, hint = None, "", None, schema
    for part in path.replace("]", "").replace("[", ".").split("."):
        if is_dataclass(hint):
            owner, name, kind = hint, part, given_type(get_type_hints(hint).get(part))
            hint = kind
        else:  # an item of a list or mapping
            hint = given_type((get_args(hint) or (None,))[-1])
    if owner is None or kind is None:
        return None
    default = next(f.default for f in fields(owner) if f.name == name)
    if isinstance(default, bool | int | float | str) and default != MISSING:
        example = f"`{name}: {str(default).lower() if isinstance(default, bool) else default}`, say"
    else:
        example = f"`{name}: {_example(kind)}`"
    return f"Write {example}; {owner.__module__.replace('.', '/')}.py describes it."


def check_kind(value: Any, hint: Any, path: str) -> None:
    """Raise `ConfigError` where a value, or one within it, is not of the kind that a type hint asks for.

    Args:
        value: as YAML gives it.
        hint: of a field of a config dataclass, or of an item of it.
        path: of the field, for messages.
    """
    if value is None and NoneType in get_args(hint):
        return
    hint = given_type(hint)
    items = get_args(hint)
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            names = ", ".join(f.name for f in fields(hint))
            raise ConfigError(path, "must be a section", shown(value), f"Give its fields by name: {names}.")
        check_keys(value, hint, f"{path}.")
    elif hint is Any:
        _check_plain(value, path)
    elif _stands_for_another(value):
        return
    elif get_origin(hint) is list:
        if not isinstance(value, list):
            fix = "Write [] for none." if value is None else _write(path, hint)
            raise ConfigError(path, "must be a list", shown(value), fix)
        for index, item in enumerate(value):
            check_kind(item, items[0], f"{path}[{index}]")
    elif get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            fix = "Write {} for none." if value is None else _write(path, hint)
            raise ConfigError(path, "must be a mapping", shown(value), fix)
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(path, "must have texts as keys", dict(value), f"Quote the key: '{key}'.")
            check_kind(item, items[1], f"{path}.{key}")
    elif value is None or not isinstance(value, PLAIN):
        rule = "must be a text" if hint is str else f"must be of type {hint.__name__}"
        raise ConfigError(path, rule, shown(value), _write(path, hint))


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
