"""Tool messages as a chat template takes them.

An environment's turns are texts, `{"role": "assistant", "content": "[TOOL_CALLS]..."}`, and its answers tool messages.
Most templates render that. Mistral's refuse it: they want answers to follow a turn with `tool_calls`, whose ids, and
those in the answers, are nine letters or digits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from configs.chat_template import PROBE, STAND_IN, Message

_ID = re.compile("[A-Za-z0-9]{9}")
PROBE_ANSWER = "x2y"
PROBE_TOOLS = [
    {
        "type": "function",
        "function": {"name": PROBE, "description": PROBE, "parameters": {"type": "object", "properties": {}}},
    }
]


def answered_turn(*, with_calls: bool) -> list[Message]:
    """Return a probing conversation in which a tool answers a turn, whose calls are in its text or in `tool_calls`."""
    answer: list[Message] = [{"role": "tool", "name": PROBE, "content": PROBE_ANSWER}]
    answer = with_call_ids(answer) if with_calls else answer
    turn = stand_in(answer, with_calls=with_calls, name=PROBE)
    return [{"role": "user", "content": PROBE}, turn, *answer, {"role": "assistant", "content": PROBE}]


def stand_in(new_messages: Sequence[Message], *, with_calls: bool, name: str = STAND_IN) -> Message:
    """Return what stands for a sampled turn while the template renders the messages that follow it.

    Args:
        new_messages: what follows the turn.
        with_calls: whether tool messages must answer `tool_calls`; the turn then has one for each of those it begins
            with.
        name: the content, or the name of the tool that is called.
    """
    ids = [message["tool_call_id"] for message in _answers(new_messages)] if with_calls else []
    if not ids:
        return {"role": "assistant", "content": name}
    calls = [{"id": id_, "type": "function", "function": {"name": name, "arguments": {}}} for id_ in ids]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def with_call_ids(messages: Sequence[Message]) -> list[Message]:
    """Return messages whose calls and answers all have ids of nine letters or digits.

    An id of that form stays. Any other gets one that depends on it alone, so that a call and its answer still agree,
    and a missing one is the number of the call, or of the answer, in its turn.
    """
    found: list[Message] = []
    number = 0
    for message in messages:
        if message.get("tool_calls"):
            calls = [{**call, "id": call_id(call.get("id"), n)} for n, call in enumerate(message["tool_calls"])]
            message = {**message, "tool_calls": calls}
        if message["role"] == "tool":
            message = {**message, "tool_call_id": call_id(message.get("tool_call_id"), number)}
        number = number + 1 if message["role"] == "tool" else 0
        found.append(message)
    return found


def call_id(own: object, number: int) -> str:
    """Return an id of nine letters or digits: `own`, or one made of it, or of `number` where there is none."""
    text = str(own or f"{number:09d}")
    return text if _ID.fullmatch(text) else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:9]


def _answers(messages: Sequence[Message]) -> list[Message]:
    """Return the tool messages that `messages` begins with."""
    other = (number for number, message in enumerate(messages) if message["role"] != "tool")
    return list(messages[: next(other, len(messages))])
