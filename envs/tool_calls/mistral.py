"""The forms of Mistral's models, which begin with `[TOOL_CALLS]`.

The older one is a JSON list, `[TOOL_CALLS][{"name": ..., "arguments": {...}, "id": "..."}, ...]`, the newer one
`[TOOL_CALLS]name[ARGS]{...}` for each call (some versions put `[CALL_ID]` and an id before `[ARGS]`). An id is nine
letters or digits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any

from envs.tool_calls.call import ToolCall, call_of, read_json

TAG, _ID, _ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_WELL_FORMED_ID = re.compile("[A-Za-z0-9]{9}")


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
        return [_call(item) for item in value] or [ToolCall(error="the list of calls is empty")]
    return [_call(value)]


def _call(item: Any) -> ToolCall:
    """Read one call of the older form."""
    return _with_id(call_of(item), item.get("id") if isinstance(item, dict) else None)


def _with_id(call: ToolCall, call_id: Any) -> ToolCall:
    """Give a call its id, where it is one."""
    if isinstance(call_id, str) and _WELL_FORMED_ID.fullmatch(call_id):
        return dataclasses.replace(call, call_id=call_id)
    return call


def _read_call(body: str) -> ToolCall:
    """Read one call of the newer form."""
    head, tag, arguments = body.partition(_ARGS)
    if not tag:  # `name{...}`, of the versions between
        head, brace, rest = body.partition("{")
        arguments = brace + rest
    name, _, call_id = head.partition(_ID)
    name = name.strip()
    value, error = read_json(arguments)
    call = ToolCall(name, error=error) if error else call_of({"name": name, "arguments": value})
    return _with_id(call, call_id.strip())


def format_mistral(name: str, arguments: dict[str, Any]) -> str:
    """Write a call in the older form that `parse_mistral` reads, with an id that depends on the call alone."""
    call = {"name": name, "arguments": arguments}
    digest = hashlib.sha256(json.dumps(call).encode()).hexdigest()
    return f"{TAG}{json.dumps([{**call, 'id': digest[:9]}], ensure_ascii=False)}"
