"""Parsers of tool calls: from an assistant's text to the calls in it, one parser per form that models write.

A parser never raises, whatever the text, and takes linear time: it looks for fixed strings, with no regular expression.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

MAX_CALL_CHARACTERS = 65_536
"""Longest body of one call that is read as JSON; a longer one is malformed."""

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the model wrote it.

    Args:
        name: the tool's name; empty where it could not be read.
        arguments: the arguments by name.
        error: what is malformed about the call, in words for the model; None where it is well-formed.
    """

    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


Parser = Callable[[str], list[ToolCall]]
"""From an assistant's text to its calls in order, `[]` where there are none."""


def parse_hermes(text: str) -> list[ToolCall]:
    """Read calls in the form of Hermes and Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

    Args:
        text: an assistant's turn.

    Returns:
        One `ToolCall` per opening tag; a call that is not closed takes the rest of the text and is malformed.
    """
    calls: list[ToolCall] = []
    start = text.find(_OPEN)
    while start >= 0:
        start += len(_OPEN)
        end = text.find(_CLOSE, start)
        if end < 0:
            return [*calls, ToolCall(error=f"the call is not closed with {_CLOSE}")]
        calls.append(_read_call(text[start:end]))
        start = text.find(_OPEN, end + len(_CLOSE))
    return calls


def _read_call(body: str) -> ToolCall:
    """Read the JSON of one call."""
    if len(body) > MAX_CALL_CHARACTERS:
        return ToolCall(error=f"the call has {len(body)} characters, at most {MAX_CALL_CHARACTERS} are allowed")
    try:
        call = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        return ToolCall(error="the call is nested too deeply")
    except ValueError as error:
        return ToolCall(error=f"the call is not valid JSON ({str(error)[:100]})")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return ToolCall(error='the call must be a JSON object with "name" (a string) and "arguments" (an object)')
    arguments = call.get("arguments", {})
    if not isinstance(arguments, dict):
        return ToolCall(name=call["name"], error='"arguments" must be a JSON object')
    return ToolCall(name=call["name"], arguments=arguments)


def _refuse_constant(constant: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's reader accepts and JSON does not have."""
    raise ValueError(f"{constant} is no JSON value")


def format_hermes(name: str, arguments: dict[str, Any]) -> str:
    """Write a call in the form that `parse_hermes` reads, with Qwen's line breaks."""
    return f"{_OPEN}\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n{_CLOSE}"


PARSERS: dict[str, Parser] = {"hermes": parse_hermes, "qwen": parse_hermes}
"""Name -> parser; an environment chooses with `tool_parser=`."""
