"""The form of Qwen3-Coder: tags, with each argument's value as text.

```
<tool_call>
<function=move>
<parameter=to>
b4
</parameter>
</function>
</tool_call>
```
"""

from __future__ import annotations

import json
from typing import Any

from envs.tool_calls.call import ToolCall, bodies, length_error
from envs.tool_calls.hermes import CLOSE, OPEN

_FUNCTION, _END_FUNCTION = "<function=", "</function>"
_PARAMETER, _END_PARAMETER = "<parameter=", "</parameter>"


def parse_qwen3_coder(text: str) -> list[ToolCall]:
    """Read the calls of a turn.

    Args:
        text: an assistant's turn; what stands outside the tags is prose. Where no `<tool_call>` is in it, which the
            models leave out at times, `<function=...>` opens a call.

    Returns:
        One `ToolCall` per function, its arguments as text; one that is malformed per `<tool_call>` without a function.
    """
    if OPEN not in text:
        return _functions(text)
    calls: list[ToolCall] = []
    for body in bodies(text, OPEN, CLOSE):
        if body is None:
            calls.append(ToolCall(error=f"the call is not closed with {CLOSE}"))
        else:
            calls += _functions(body) or [ToolCall(error=f"the call holds no {_FUNCTION}name>")]
    return calls


def _functions(text: str) -> list[ToolCall]:
    """Read every function of a text."""
    return [_read_call(body) for body in bodies(text, _FUNCTION, _END_FUNCTION)]


def _read_call(body: str | None) -> ToolCall:
    """Read one function, from its name to its end."""
    if body is None:
        return ToolCall(error=f"the call is not closed with {_END_FUNCTION}")
    if error := length_error(body):
        return ToolCall(error=error)
    name, closed, rest = body.partition(">")
    if not closed:
        return ToolCall(error=f"{_FUNCTION}name is not closed with >")
    name = name.strip()
    arguments: dict[str, Any] = {}
    before, *parameters = rest.split(_PARAMETER)
    if before.strip():
        return ToolCall(name, error=f"text outside of {_PARAMETER}name>: {before.strip()[:50]!r}")
    for parameter in parameters:
        key, key_closed, value = parameter.partition(">")
        value, closed, after = value.partition(_END_PARAMETER)
        if not key_closed or not closed:
            return ToolCall(name, error=f"{_PARAMETER}{key.strip()[:50]} is not closed with {_END_PARAMETER}")
        if after.strip():
            return ToolCall(name, error=f"text outside of {_PARAMETER}name>: {after.strip()[:50]!r}")
        arguments[key.strip()] = value.removeprefix("\n").removesuffix("\n")
    return ToolCall(name, arguments, as_text=True)


def format_qwen3_coder(name: str, arguments: dict[str, Any]) -> str:
    """Write a call in the form that `parse_qwen3_coder` reads: strings as they are, all else as JSON."""
    lines = [OPEN, f"{_FUNCTION}{name}>"]
    for key, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines += [f"{_PARAMETER}{key}>", text, _END_PARAMETER]
    return "\n".join([*lines, _END_FUNCTION, CLOSE])
