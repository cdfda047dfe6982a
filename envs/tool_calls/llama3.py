"""The form of Llama 3.1 to 3.3: the turn is `{"name": ..., "parameters": {...}}`, several of them in a row."""

from __future__ import annotations

import json
from typing import Any

from envs.tool_calls.call import ToolCall, call_of, json_error, length_error, refuse_constant

TAG = "<|python_tag|>"
_BETWEEN = " \t\r\n;,"
_DECODER = json.JSONDecoder(parse_constant=refuse_constant)


def parse_llama3(text: str) -> list[ToolCall]:
    """Read the calls of a turn.

    Args:
        text: an assistant's turn. What follows the first `<|python_tag|>` is calls; without the tag, a turn that begins
            with `{` and spells `"name"` is calls, and every other one holds none. Semicolons, commas or spaces stand
            between calls. `"arguments"` may stand for `"parameters"`.

    Returns:
        One `ToolCall` per object; JSON that cannot be read takes the rest of the text.
    """
    _, tag, body = text.partition(TAG)
    if not tag:
        body = text.lstrip()
        if not body.startswith("{") or '"name"' not in body:
            return []
    body = body.replace(TAG, ";").strip(_BETWEEN)
    if error := length_error(body):
        return [ToolCall(error=error)]
    return _objects(body) or [ToolCall(error="the call is empty")]


def _objects(body: str) -> list[ToolCall]:
    """Read JSON objects that stand in a row."""
    calls: list[ToolCall] = []
    place = 0
    while place < len(body):
        if body[place] in _BETWEEN:
            place += 1
            continue
        try:
            value, place = _DECODER.raw_decode(body, place)
        except (ValueError, RecursionError) as error:
            return [*calls, ToolCall(error=json_error(error))]
        by_arguments = isinstance(value, dict) and "arguments" in value and "parameters" not in value
        calls.append(call_of(value, "arguments" if by_arguments else "parameters"))
    return calls


def format_llama3(name: str, arguments: dict[str, Any]) -> str:
    """Write a call in the form that `parse_llama3` reads, as Llama's chat templates do: without the tag."""
    return json.dumps({"name": name, "parameters": arguments}, ensure_ascii=False)
