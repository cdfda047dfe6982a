"""The pythonic form (Llama 3.2 and 4, ToolACE): the turn is a list of Python calls, `[move(to="b4"), wait(hours=2)]`.

The text is never run, nor given to Python's own parser, whose time and stack an adversarial text can blow up: it is cut
into tokens, rewritten as JSON token by token, and read as that.
"""

from __future__ import annotations

import json
import re
from typing import Any

from envs.tool_calls.call import ToolCall, call_of, length_error

_CALLS = re.compile(r"\[\s*+[A-Za-z_][\w.]*+\s*+\(")
"""How a turn begins that is a list of calls."""
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')
    |(?P<constant>(?:True|False|None)\b)
    |(?P<call>[A-Za-z_][\w.]*+)\s*+\(
    |(?P<key>[A-Za-z_]\w*+)\s*+=
    |(?P<as_json>-?\d++(?:\.\d++)?+(?:[eE][+-]?\d++)?+|(?:true|false|null)\b|[\[\]{}),:])""",
    re.DOTALL | re.VERBOSE,
)  # possessive throughout: no token is looked at twice
_ESCAPE = re.compile(r"\\(U000[0-9a-fA-F]{5}|U0010[0-9a-fA-F]{4}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\n": "", "\\": "\\", "'": "'", '"': '"'}
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_SPACE = re.compile(r"\s*+")


def parse_pythonic(text: str) -> list[ToolCall]:
    """Read the calls of a turn.

    Args:
        text: an assistant's turn; it holds calls where it begins with `[name(`, after `<|python_start|>` if need be.

    Returns:
        The calls of the list, whose values are literals; a list that cannot be read is one malformed call.
    """
    body = text.strip().removeprefix("<|python_start|>").removesuffix("<|python_end|>").strip()
    if not _CALLS.match(body):
        return []
    if error := length_error(body):
        return [ToolCall(error=error)]
    try:
        return [call_of(item) for item in json.loads(_as_json(body))]
    except json.JSONDecodeError as raised:
        return [ToolCall(error=f"the turn is no list of calls with named literal arguments ({raised.msg})")]
    except RecursionError:
        return [ToolCall(error="the call is nested too deeply")]
    except ValueError as raised:
        return [ToolCall(error=str(raised))]


def _as_json(body: str) -> str:
    """Rewrite a list of calls as a JSON list of objects with `name` and `arguments`.

    Raises:
        ValueError: a token that no literal has, a call within a call, or brackets that do not match.
    """
    written: list[str] = []
    opened: list[str] = []
    place = 0
    while (place := _SPACE.match(body, place).end()) < len(body):  # type: ignore[union-attr]
        token = _TOKEN.match(body, place)
        if token is None:
            raise ValueError(f"the list of calls cannot be read at {body[place : place + 30]!r}")
        kind, shown = str(token.lastgroup), token[str(token.lastgroup)]
        if kind == "call":
            if opened != ["["]:
                raise ValueError(f"{shown[:50]}(...) stands where a literal must")
            written.append(f'{{"name": {json.dumps(shown)}, "arguments": {{')
            opened.append("(")
        elif kind == "as_json" and shown in "[{":
            opened.append(shown)
            written.append(shown)
        elif kind == "as_json" and shown in ")]}":
            if not opened or opened.pop() + shown not in ("()", "[]", "{}"):
                raise ValueError(f"a bracket is closed that is not open, at {body[place : place + 30]!r}")
            written.append("}}" if shown == ")" else shown)
        else:
            written.append(_literal(kind, shown))
        place = token.end()
    return " ".join(written)


def _literal(kind: str, shown: str) -> str:
    """Rewrite one token that is no bracket."""
    if kind == "string":
        return json.dumps(_ESCAPE.sub(_unescape, shown[1:-1]))
    if kind == "key":
        return f"{json.dumps(shown)}:"
    return _CONSTANTS[shown] if kind == "constant" else shown


def _unescape(found: re.Match[str]) -> str:
    """Return what an escape in a Python string stands for; an unknown one for itself."""
    code = found[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, found[0])


def format_pythonic(name: str, arguments: dict[str, Any]) -> str:
    """Write a call in the form that `parse_pythonic` reads."""
    return f"[{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]"
