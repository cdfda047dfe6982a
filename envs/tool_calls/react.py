r"""The ReAct form (arXiv 2210.03629): lines that begin with labels, `Action: move\nAction Input: {"to": "b4"}`."""

from __future__ import annotations

import json
from typing import Any

from envs.tool_calls.call import ToolCall, call_of, length_error, read_json

_ACTION, _INPUT = "Action:", "Action Input:"
_OTHERS = ("Thought:", "Observation:", "Final Answer:", "Question:")


def parse_react(text: str) -> list[ToolCall]:
    """Read the calls of a turn.

    Args:
        text: an assistant's turn. A line `Action:` names a tool; its input is what follows `Action Input:` up to the
            next line with a label. What the model makes up as an `Observation:` is left out.

    Returns:
        One `ToolCall` per `Action:`. An input that begins with `{` is a JSON object of arguments; an empty one is no
        arguments; every other text is the value of the tool's only parameter, under the name "".
    """
    calls: list[tuple[str, list[str] | None]] = []
    within: list[str] | None = None
    for line in text.split("\n"):
        start = line.lstrip()
        if start.startswith(_ACTION):
            calls.append((start[len(_ACTION) :].strip(), None))
            within = None
        elif start.startswith(_INPUT):
            within = [start[len(_INPUT) :]]
            if calls and calls[-1][1] is None:
                calls[-1] = (calls[-1][0], within)
        elif start.startswith(_OTHERS):
            within = None
        elif within is not None:
            within.append(line)
    return [_read_call(name, lines) for name, lines in calls]


def _read_call(name: str, lines: list[str] | None) -> ToolCall:
    """Read one call; None stands for a missing input."""
    if lines is None:
        return ToolCall(name, error=f"{_INPUT} is missing")
    body = "\n".join(lines).strip()
    if error := length_error(body):
        return ToolCall(name, error=error)
    if not body.startswith("{"):
        return ToolCall(name, {"": body}, as_text=True) if body else ToolCall(name)
    value, error = read_json(body)
    return ToolCall(name, error=error) if error else call_of({"name": name, "arguments": value})


def format_react(name: str, arguments: dict[str, Any]) -> str:
    """Write a call in the form that `parse_react` reads."""
    return f"{_ACTION} {name}\n{_INPUT} {json.dumps(arguments, ensure_ascii=False)}\n"
