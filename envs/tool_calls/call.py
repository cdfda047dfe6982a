"""A tool call as a model wrote it, and what the parsers of several forms share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

MAX_CALL_CHARACTERS = 65_536
"""Longest body of a call that is read; a longer one is malformed. Forms that write several calls into one JSON text or
list (Llama 3, Mistral, pythonic) have one body for all of them."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the model wrote it.

    Args:
        name: the tool's name; empty where it could not be read.
        arguments: the arguments by name.
        error: what is malformed about the call, in words for the model; None where it is well-formed.
        as_text: whether the arguments are texts that the tool's schema is yet to give types
            (see `envs.text_arguments`).
        call_id: the id that the model gave the call, which its answer repeats; None where the form has none.
    """

    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    as_text: bool = False
    call_id: str | None = None


Parser = Callable[[str], list[ToolCall]]
"""From an assistant's text to its calls in order, `[]` where there are none."""
Formatter = Callable[[str, dict[str, Any]], str]
"""From a tool's name and its arguments to the text of one call, which the form's parser reads back."""


def read_json(body: str) -> tuple[Any, str | None]:
    """Read the body of a call as JSON.

    Returns:
        The value and None, or None and what is wrong with the body.
    """
    if error := length_error(body):
        return None, error
    try:
        return json.loads(body, parse_constant=refuse_constant), None
    except (ValueError, RecursionError) as raised:
        return None, json_error(raised)


def json_error(error: ValueError | RecursionError) -> str:
    """Say in words for the model why its JSON could not be read."""
    if isinstance(error, RecursionError):
        return "the call is nested too deeply"
    return f"the call is not valid JSON ({str(error)[:100]})"


def refuse_constant(constant: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's reader accepts and JSON does not have."""
    raise ValueError(f"{constant} is no JSON value")


def length_error(body: str) -> str | None:
    """Say that a call's body is too long; None where it is not."""
    if len(body) <= MAX_CALL_CHARACTERS:
        return None
    return f"the call has {len(body)} characters, at most {MAX_CALL_CHARACTERS} are allowed"


def call_of(value: Any, key: str = "arguments") -> ToolCall:
    """Make a call of `{"name": ..., key: {...}}`; the arguments may be left out."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return ToolCall(error=f'the call must be a JSON object with "name" (a string) and "{key}" (an object)')
    arguments = value.get(key, {})
    if not isinstance(arguments, dict):
        return ToolCall(name=value["name"], error=f'"{key}" must be a JSON object')
    return ToolCall(name=value["name"], arguments=arguments)


def bodies(text: str, opening: str, closing: str) -> Iterator[str | None]:
    """Yield what stands between each `opening` and the next `closing`, at last None where one is not closed."""
    start = text.find(opening)
    while start >= 0:
        start += len(opening)
        end = text.find(closing, start)
        if end < 0:
            yield None
            return
        yield text[start:end]
        start = text.find(opening, end + len(closing))
