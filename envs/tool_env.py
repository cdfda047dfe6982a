"""The base of tool-use environments: typed methods are the tools, a turn without a call is the final answer."""

from __future__ import annotations

import json
from typing import Any

from configs import bounds
from envs.conversation import KWARGS, ConversationEnv, Reply
from envs.spaces import Message
from envs.text_arguments import typed
from envs.thinking import without_thinking
from envs.tool_calls import AUTO, FORMATS, PARSERS, ToolCall
from envs.tools import argument_error, tools_of


class ToolEnv(ConversationEnv):
    """A conversation in which the assistant may call tools.

    Authors mark methods with `@tool` and override `sample_task`, `first_messages` and `finish` (or `answer`, where a
    turn without a call is not final). Every call of a turn is parsed, checked and executed in order; results and errors
    go back as tool messages. A thinking block that opens the turn (`envs.thinking`) is the model's own: what stands in
    it is neither a call nor an answer. `info["metrics"]` counts `tool_calls` and `tool_errors` (malformed calls,
    unknown tools, wrong arguments, tools that raised) of the step.

    Args:
        tool_parser: form in which the model writes its calls, a name in `envs.tool_calls.PARSERS`; `auto` is what the
            model's chat template asks for where the orchestrator makes the environment, and `hermes` elsewhere.
        max_calls_per_turn: calls executed in one turn; the rest are refused with one error.
        **kwargs: those of `ConversationEnv`.
    """

    def __init__(self, *, tool_parser: str = "hermes", max_calls_per_turn: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        bounds.one_of(KWARGS, "tool_parser", tool_parser, (*PARSERS, AUTO))
        bounds.at_least(KWARGS, "max_calls_per_turn", max_calls_per_turn, 1)
        self.tool_parser = "hermes" if tool_parser == AUTO else tool_parser
        self.max_calls_per_turn = max_calls_per_turn
        self._tools = self.offered_tools()
        if not self._tools:
            raise ValueError(f"{type(self).__name__} has no tools: mark at least one method with @tool.")
        self._tools_json = json.dumps(list(self._tools.values()))

    def offered_tools(self) -> dict[str, dict[str, Any]]:
        """Return name -> schema of the tools, those marked `@tool`. Override it and `call_tool` to add others."""
        return tools_of(type(self))

    def finish(self, text: str) -> float:
        """Return the reward of the final answer `text`, a turn that calls no tool."""
        raise NotImplementedError(f"{type(self).__name__} must define finish(text).")

    def write_call(self, name: str, arguments: dict[str, Any]) -> str:
        """Return the text of a call in the environment's form, for `expert_turns`."""
        return FORMATS[self.tool_parser](name, arguments)

    def describe_error(self, error: str) -> str:
        """Return what the model is told about a failed call."""
        return f"Error: {error}"

    def answer(self, text: str) -> Reply:
        """Answer a turn that calls no tool: by default it is final. Override it where such turns go to a user."""
        return Reply(reward=self.finish(text), terminated=True)

    def respond(self, text: str) -> Reply:
        """Execute the turn's calls, or answer it where it has none."""
        text = without_thinking(text)
        calls = PARSERS[self.tool_parser](text)
        if not calls:
            reply = self.answer(text)
            reply.metrics = {"tool_calls": 0.0, "tool_errors": 0.0} | reply.metrics
            return reply
        answers = [self._execute(call) for call in calls[: self.max_calls_per_turn]]
        if len(calls) > self.max_calls_per_turn:
            error = f"{len(calls)} calls in one turn, only the first {self.max_calls_per_turn} were executed"
            answers.append((self._message(ToolCall(), self.describe_error(error)), True))
        errors = sum(failed for _, failed in answers)
        return Reply(
            [message for message, _ in answers], metrics={"tool_calls": float(len(calls)), "tool_errors": float(errors)}
        )

    def call_tool(self, call: ToolCall) -> tuple[str, bool]:
        """Check and execute one well-formed call; return its result or what went wrong, and whether it failed."""
        return execute(self, self._tools, call.name, call.arguments, as_text=call.as_text)

    def _execute(self, call: ToolCall) -> tuple[Message, bool]:
        """Check and execute one call; return its tool message and whether it failed."""
        if call.error:
            text, failed = call.error, True
        else:
            text, failed = self.call_tool(call)
        return self._message(call, self.describe_error(text) if failed else text), failed

    def _message(self, call: ToolCall, content: str) -> Message:
        """Return a tool message; no made-up name, and no half of a surrogate pair, which no tokenizer takes."""
        content = content.encode("utf-8", "replace").decode()
        name = call.name if call.name in self._tools else "unknown"
        message: Message = {"role": "tool", "name": name, "content": content}
        return message if call.call_id is None else {**message, "tool_call_id": call.call_id}


def execute(
    owner: object, tools: dict[str, dict[str, Any]], name: str, arguments: dict[str, Any], *, as_text: bool = False
) -> tuple[str, bool]:
    """Check and execute one call.

    Args:
        owner: the object whose methods the tools are.
        tools: name -> schema of the tools it offers.
        name: the tool that is called.
        arguments: its arguments by name.
        as_text: whether they are texts, which the schema gives their types.

    Returns:
        The result as the model reads it and False, or what went wrong in words and True.
    """
    if name not in tools:
        return f"unknown tool '{name[:50]}' (available: {', '.join(tools)})", True
    try:
        if as_text:
            arguments = typed(tools[name], arguments)
        error = argument_error(tools[name], arguments)
        if error is None:
            return _as_text(getattr(owner, name)(**arguments)), False
    except Exception as raised:  # the author's code on the model's arguments: it costs only its own call
        error = _in_words(raised)
    return error, True


def _in_words(raised: Exception) -> str:
    """Return an exception's message, its type where it has none or cannot be shown (an integer of 5000 digits)."""
    try:
        return str(raised) or type(raised).__name__
    except Exception:
        return type(raised).__name__


def _as_text(result: Any) -> str:
    """Return a tool's result as the model reads it: text as it is, everything else as JSON."""
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
