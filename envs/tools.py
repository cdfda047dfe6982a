"""Typed Python methods as tools: the JSON schema a model sees, and the check of the arguments it sends.

```python
@tool
def add(self, a: int, b: int = 1) -> int:
    '''Add two numbers.'''
    return a + b
```

The type hints give the types; the docstring gives the tool's description and, in a section `Args:`, those of its
parameters. A parameter with a default is optional.
"""

from __future__ import annotations

import inspect
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union

Function = TypeVar("Function", bound=Callable[..., Any])

_SCALARS: dict[object, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def tool(function: Function) -> Function:
    """Mark a method as a tool; its schema is made here, so that a wrong signature fails when the module is imported.

    Raises:
        ValueError: no docstring, a parameter without a type hint, or a type that JSON does not have.
    """
    function.__tool_schema__ = schema_of(function)  # type: ignore[attr-defined]
    return function


def tools_of(cls: type) -> dict[str, dict[str, Any]]:
    """Return name -> schema of every tool of a class, base classes first, in the order of definition."""
    found: dict[str, dict[str, Any]] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            if hasattr(member, "__tool_schema__"):
                found[name] = member.__tool_schema__
            else:
                found.pop(name, None)  # overridden by something that is no tool
    return found


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the function's schema in OpenAI's form, `{"type": "function", "function": {...}}`.

    Args:
        function: a method with type hints and a Google docstring; `self` is left out.
    """
    name = function.__name__
    text = inspect.getdoc(function)
    if not text:
        raise ValueError(f"tool {name} needs a docstring: the model reads it.")
    description, described = _read_docstring(text)
    hints = typing.get_type_hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in list(inspect.signature(function).parameters.values()):
        if parameter.name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ValueError(f"tool {name}: parameter {parameter.name} must be an ordinary named one, got {parameter}.")
        if parameter.name not in hints:
            raise ValueError(f"tool {name}: parameter {parameter.name} needs a type hint.")
        properties[parameter.name] = _json_type(hints[parameter.name], f"tool {name}: parameter {parameter.name}")
        if parameter.name in described:
            properties[parameter.name]["description"] = described[parameter.name]
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    if unknown := sorted(set(described) - set(properties)):
        raise ValueError(f"tool {name}: the docstring describes {', '.join(unknown)}, which is no parameter.")
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _json_type(hint: Any, where: str) -> dict[str, Any]:
    """Return the JSON schema of a type hint."""
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if hint is Any:
        return {}
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_json_type(argument, where) for argument in arguments]}
    if hint is type(None):
        return {"type": "null"}
    if origin is list:
        return {"type": "array", "items": _json_type(arguments[0], where) if arguments else {}}
    if origin is dict and (not arguments or arguments[0] is str):
        return {"type": "object", "additionalProperties": _json_type(arguments[1], where) if arguments else {}}
    raise ValueError(
        f"{where} has type {hint!r}, which JSON does not have. Use str, int, float, bool, list[...], dict[str, ...], "
        f"Literal[...] or a union of them."
    )


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a Google docstring into what stands before its first section, and parameter name -> description."""
    description: list[str] = []
    described: dict[str, str] = {}
    section = current = ""
    for line in text.splitlines():
        if line.rstrip(":") in ("Args", "Arguments", "Returns", "Raises", "Yields", "Examples", "Example", "Note"):
            section = line.rstrip(":")
        elif not section:
            description.append(line.strip())
        elif section in ("Args", "Arguments") and line.strip():
            head, colon, rest = line.strip().partition(":")
            indent = len(line) - len(line.lstrip())
            if colon and indent <= 4 and head.split(" ")[0].isidentifier():
                current = head.split(" ")[0]
                described[current] = rest.strip()
            elif current:
                described[current] = f"{described[current]} {line.strip()}".strip()
    return " ".join(part for part in description if part), described


def argument_error(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """Check the arguments of a call against a tool's schema.

    Args:
        schema: the tool's schema as `schema_of` gives it.
        arguments: what the model sent, parsed from JSON.

    Returns:
        One sentence for the model on the first thing that is wrong, or None.
    """
    parameters = schema["function"]["parameters"]
    properties: dict[str, Any] = parameters["properties"]
    for name in parameters["required"]:
        if name not in arguments:
            return f"missing argument '{name}'"
    for name, value in arguments.items():
        if name not in properties:
            accepted = ", ".join(f"'{p}'" for p in properties) or "none"
            return f"unexpected argument '{name[:50]}' (accepted: {accepted})"
        if not fits(value, properties[name]):
            return f"argument '{name}' must be {_describe(properties[name])}, got {_show(value)}"
    return None


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Return whether a JSON value fits one parameter's schema.

    True and false are no numbers, and infinite numbers fit nothing.
    """
    if "enum" in schema:
        return any(type(value) is type(option) and value == option for option in schema["enum"])
    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    match schema.get("type"):
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "array":
            return isinstance(value, list) and all(fits(item, schema["items"]) for item in value)
        case "object":
            return isinstance(value, dict) and all(fits(v, schema["additionalProperties"]) for v in value.values())
    return True


def _is_finite(number: float) -> bool:
    """Whether a number is finite as a float; JSON integers have no limit, floats end near 1.8e308."""
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the largest float
        return False


def _describe(schema: dict[str, Any]) -> str:
    """Name the values that fit, for an error message."""
    if "enum" in schema:
        return "one of " + ", ".join(repr(option) for option in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_describe(option) for option in schema["anyOf"])
    if schema.get("type") == "array" and schema["items"]:
        return f"array of {_describe(schema['items'])}"
    return str(schema.get("type", "any value"))


def _show(value: Any) -> str:
    """Show a value in an error message, cut short and without walking deep structures."""
    if isinstance(value, list | dict):
        return f"{'array' if isinstance(value, list) else 'object'} of {len(value)}"
    if isinstance(value, str):
        return repr(value[:50])
    if isinstance(value, int) and abs(value) >= 10**20:
        return "an integer of more than 20 digits"
    return json.dumps(value)
