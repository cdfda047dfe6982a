"""What a server says about its tools as schemas in OpenAI's form, and the check of arguments by any JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import referencing
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from mcp_types import Tool

MOST_CHARACTERS = 65_536
"""Longest schema of one tool, as JSON."""
_NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_SIMPLE = ("string", "integer", "number", "boolean", "null", "array", "object")


def offered(tools: Iterable[Tool]) -> dict[str, dict[str, Any]]:
    """Return name -> schema of a server's tools.

    Raises:
        ValueError: a name that is used twice or has other characters, or a schema that is none or too long.
    """
    found: dict[str, dict[str, Any]] = {}
    for tool in tools:
        if not _NAME.fullmatch(tool.name) or tool.name in found:
            raise ValueError(f"a tool's name must be unique, of letters, digits and _./-, got {tool.name[:100]!r}")
        parameters = {"type": "object", "properties": {}} | tool.input_schema
        if len(json.dumps(parameters)) > MOST_CHARACTERS:
            raise ValueError(f"the schema of tool {tool.name} has more than {MOST_CHARACTERS} characters")
        try:
            Draft202012Validator.check_schema(parameters)
        except SchemaError as error:
            raise ValueError(f"the schema of tool {tool.name} is no JSON schema: {error.message[:200]}") from error
        if parameters["type"] != "object":
            raise ValueError(f"the parameters of tool {tool.name} must be of type object")
        parameters["properties"] = {name: {} for name in parameters.get("required", ())} | parameters["properties"]
        description = (tool.description or tool.title or f"The tool {tool.name}.").strip()[:MOST_CHARACTERS]
        function = {"name": tool.name, "description": description, "parameters": parameters}
        found[tool.name] = {"type": "function", "function": function}
    return found


def mismatch(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """Check arguments against a tool's schema; references to other documents are not followed.

    Args:
        schema: as `offered` gives it.
        arguments: what the model sent, parsed from JSON.

    Returns:
        One sentence for the model on what is wrong, or None.
    """
    parameters = schema["function"]["parameters"]
    registry: Any = referencing.Registry()
    error = best_match(Draft202012Validator(parameters, registry=registry).iter_errors(arguments))
    if error is None:
        return None
    place = ".".join(str(part) for part in error.absolute_path)[:100]
    return f"argument '{place}': {error.message[:300]}" if place else error.message[:300]


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a tool's schema as far as arguments that came as text need it: the type of each parameter."""
    function = schema["function"]
    parameters = function["parameters"]
    types = {name: _type(one, parameters.get("$defs", {}), 8) for name, one in parameters["properties"].items()}
    simple = {"properties": types, "required": list(parameters.get("required", ()))}
    return {"type": "function", "function": function | {"parameters": simple}}


def _type(schema: Any, definitions: dict[str, Any], depth: int) -> dict[str, Any]:
    """Return a parameter's type in the form of `envs.tools`; {}, any value, where it has none that is simple."""
    if not isinstance(schema, dict) or not depth:
        return {}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _type(definitions.get(reference.removeprefix("#/$defs/")), definitions, depth - 1)
    if isinstance(schema.get("enum"), list):
        return {"enum": schema["enum"]}
    for several in ("anyOf", "oneOf"):
        if isinstance(schema.get(several), list):
            return {"anyOf": [_type(option, definitions, depth - 1) for option in schema[several]]}
    kind = schema.get("type")
    if isinstance(kind, list):
        return {"anyOf": [_type({"type": one}, definitions, depth - 1) for one in kind]}
    if kind not in _SIMPLE:
        return {}
    inner: dict[str, Any] = {"array": {"items": {}}, "object": {"additionalProperties": {}}}.get(kind, {})
    return {"type": kind} | inner
