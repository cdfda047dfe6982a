"""Arguments that a form of tool calls gives as text only, and the types that the tool's schema gives them.

- Where the schema takes a string, the text is the value as it is.
- Integers, numbers, booleans, null, arrays and objects are the text read as JSON; `True`, `False` and `None`, as Python
  writes them, are read too.
- Of several types the first that is no string and fits is taken, so that `null` is null for `str | None`.
- An option of a `Literal` is the one that the text spells.
- Without a type, the text is read as JSON where it is JSON.

A text that does not read as its type stays text: the check of arguments then says what is wrong with it.
"""

from __future__ import annotations

from typing import Any

from envs.tool_calls.call import read_json
from envs.tools import fits

ONLY = ""
"""Name of an argument that was given without one: the tool's only parameter, or its only required one."""
_PYTHON = {"True": True, "False": False, "None": None}


def typed(schema: dict[str, Any], arguments: dict[str, str]) -> dict[str, Any]:
    """Give texts the types of a tool's parameters.

    Args:
        schema: the tool's schema as `envs.tools.schema_of` gives it.
        arguments: name -> text; the name `ONLY` stands for the only parameter.

    Returns:
        name -> value. What the tool does not take stays text.
    """
    properties = schema["function"]["parameters"]["properties"]
    found: dict[str, Any] = {}
    for name, text in arguments.items():
        known = _only(schema) if name == ONLY else name
        found[known] = value_of(text, properties[known]) if known in properties else text
    return found


def _only(schema: dict[str, Any]) -> str:
    """Return the name of the tool's only parameter, or of its only required one; "" where there are several."""
    parameters = schema["function"]["parameters"]
    for names in (list(parameters["properties"]), parameters["required"]):
        if len(names) == 1:
            return names[0]
    return ONLY


def value_of(text: str, schema: dict[str, Any]) -> Any:
    """Give one text the type of one parameter; the text itself where it has no such value."""
    read = _read(text)
    if "anyOf" in schema:
        others = [option for option in schema["anyOf"] if option.get("type") != "string"]
        values = (value_of(text, option) for option in others)
        return next((value for value, option in zip(values, others, strict=True) if fits(value, option)), text)
    if schema.get("type") == "string" or ("enum" in schema and fits(text, schema)):
        return text
    return read if fits(read, schema) else text


def _read(text: str) -> Any:
    """Read a text as JSON, or as one of Python's constants; the text itself where it is neither."""
    stripped = text.strip()
    if stripped in _PYTHON:
        return _PYTHON[stripped]
    value, error = read_json(stripped)
    return text if error else value
