"""The forms of Mistral's models, which begin with `[TOOL_CALLS]`.

The older one is a JSON list, `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, the newer one
`[TOOL_CALLS]name[ARGS]{...}` for each call (some versions put `[CALL_ID]` and an id before `[ARGS]`).
"""

from __future__ import annotations

import json
from typing import Any

from envs.tool_calls.call import ToolCall, call_of, read_json

TAG, _ID, _ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"


def parse_mistral(text: str) -> list[ToolCall]:
    """Read the calls of a turn.

    Args:
        text: an assistant's turn; what stands before the first `[TOOL_CALLS]` is prose.

    Returns:
        The calls after each `[TOOL_CALLS]`; a list that cannot be read is one malformed call.
    """
    calls: list[ToolCall] = []
    for body in text.split(TAG)[1:]:
        body = body.strip()
        calls += _read_list(body) if body.startswith(("[", "{")) or not body else [_read_call(body)]
    return calls


def _read_list(body: str) -> list[ToolCall]:
    """Read the JSON list of the older form, or one object without the list."""
    value, error = read_json(body)
    if error:
        return [ToolCall(error=error)]
    if isinstance(value, list):
        return [call_of(item) for item in value] or [ToolCall(error="the list of calls is empty")]
    return [call_of(value)]


def _read_call(body: str) -> ToolCall:
    """Read one call of the newer form."""
    head, tag, arguments = body.partition(_ARGS)
    if not tag:  # `name{...}`, of the versions between
        head, brace, rest = body.partition("{")
        arguments = brace + rest
    name = head.partition(_ID)[0].strip()
    value, error = read_json(arguments)
    return ToolCall(name, error=error) if error else call_of({"name": name, "arguments": value})


def format_mistral(name: str, arguments: dict[str, Any]) -> str:
    """Write a call in the older form that `parse_mistral` reads."""
    return f"{TAG}{json.dumps([{'name': name, 'arguments': arguments}], ensure_ascii=False)}"
