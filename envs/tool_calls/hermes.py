"""The form of Hermes, Qwen2.5 and Qwen3: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, once per call."""

from __future__ import annotations

import json
from typing import Any

from envs.tool_calls.call import ToolCall, bodies, call_of, read_json

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def parse_hermes(text: str) -> list[ToolCall]:
    """Read the calls of a turn.

    Args:
        text: an assistant's turn; what stands outside the tags is prose.

    Returns:
        One `ToolCall` per opening tag; a call that is not closed takes the rest of the text and is malformed.
    """
    return [_read_call(body) for body in bodies(text, OPEN, CLOSE)]


def _read_call(body: str | None) -> ToolCall:
    """Read the JSON of one call; None stands for one that is not closed."""
    if body is None:
        return ToolCall(error=f"the call is not closed with {CLOSE}")
    value, error = read_json(body)
    return ToolCall(error=error) if error else call_of(value)


def format_hermes(name: str, arguments: dict[str, Any]) -> str:
    """Write a call in the form that `parse_hermes` reads, with Qwen's line breaks."""
    return f"{OPEN}\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n{CLOSE}"
