"""Episodes in which a person takes the assistant's turns."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import gymnasium

from configs import bounds
from configs.errors import ConfigError
from envs.raised import Raised
from envs.tool_calls import PARSERS
from envs.tool_env import ToolEnv
from policies.rendering import RenderedConversation, Renderer

Say = Callable[[str], None]
"""Prints a text and a line break."""
T = TypeVar("T")
_EXAMPLES = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
"""Type of a tool's parameter -> a value in the example of a call; any other is a text."""


def play_episodes(
    env: gymnasium.Env[Any, Any], name: str, seed: int, index: int | None, renderer: Renderer | None, say: Say
) -> None:
    """Play episodes until the input ends or is interrupted.

    Args:
        env: the environment.
        name: what it is called in messages.
        seed: of the first episode; each further one takes the next.
        index: number of the first task, the next ones follow, after the last one the first; None: the seeds decide.
        renderer: shows the text that the model's tokens spell; None: the messages alone.
        say: prints.

    Raises:
        ConfigError: the environment has no such task, or no numbered tasks.
        RuntimeError: the environment raised.
    """
    if index is not None:
        _check_index(env, index)
    asked = _Asked(env, name)
    played, total = 0, 0.0
    try:
        while True:
            options = None if index is None else {"task": asked("task", _task, env, index + played)}
            total += _play_one(asked, seed + played, options, renderer, say, explain=not played)
            played += 1
            say("")
    except (EOFError, KeyboardInterrupt):
        say("")
    say(f"episodes: {played}" + (f", mean reward {total / played:g}" if played else ""))


def _check_index(env: gymnasium.Env[Any, Any], index: int) -> None:
    """Raise `ConfigError` unless the environment has task number `index`."""
    if not callable(getattr(env.unwrapped, "task", None)):
        raise ConfigError("--index", "needs an environment with numbered tasks", index, "Choose by --seed.")
    most = getattr(env.unwrapped, "num_tasks", None)
    bounds.within("--", "index", index, 0, math.inf if most is None else most - 1)


def _task(env: gymnasium.Env[Any, Any], number: int) -> dict[str, Any]:
    """Return a task by its number; after the last one comes the first."""
    most = getattr(env.unwrapped, "num_tasks", None)
    return env.unwrapped.task(number if most is None else number % most)  # type: ignore[attr-defined]


class _Asked:
    """An environment whose methods are called by a person's command: what they raise is one sentence."""

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        self.env = env
        self.name = name

    def __call__(self, method: str, function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Call a function of the environment; `method` is how the message names it."""
        try:
            return function(*arguments, **keywords)
        except ConfigError:
            raise
        except Exception as error:  # the author's code
            raised = Raised.of(error, type(self.env.unwrapped))
            place = f", at {raised.place}" if raised.place else ""
            raise RuntimeError(
                f"{self.name} raised {raised.error}, in {method}{place}. "
                f"`rejuvenate env check {self.name}` tries every method."
            ) from error


def _play_one(
    asked: _Asked, seed: int, options: dict[str, Any] | None, renderer: Renderer | None, say: Say, *, explain: bool
) -> float:
    """Play one episode, after a line on how to play where `explain` says so; its reward."""
    observation, info = asked("reset", asked.env.reset, seed=seed, options=options)
    tools = list(info.get("tools", []))
    messages = [dict(message) for message in observation]
    conversation = renderer.conversation(messages, tools or None) if renderer else None
    if explain:
        say(_how_to_play(asked.env, tools))
    say(f"--- episode with seed {seed} ---")
    _say_tools(tools, say)
    _say_messages(messages, say)
    if renderer and conversation:
        _say_tokens(renderer, conversation.prompt_token_ids, say)
    total = 0.0
    while True:
        text = _read_turn()
        if not sys.stdin.isatty():  # a terminal shows what is typed, a pipe does not
            say(text)
        observation, reward, terminated, truncated, info = asked("step", asked.env.step, text)
        total += float(reward)
        added = [dict(message) for message in observation]
        _say_messages(added, say)
        figures = " ".join(f"{name}={value:g}" for name, value in info.get("metrics", {}).items())
        say(f"(reward {float(reward):g}{', ' + figures if figures else ''})")
        if terminated or truncated:
            status = info.get("status") or ("finished" if terminated else "truncated")
            say(f"--- {status}: reward {total:g} ---")
            return total
        if renderer and conversation:
            _extend(renderer, conversation, text, added, say)


def _how_to_play(env: gymnasium.Env[Any, Any], tools: list[dict[str, Any]]) -> str:
    """Say in a line or two what can be typed, with a call of the first tool."""
    own = env.unwrapped
    line = "A line is a turn (one that ends in a backslash goes on)"
    if not tools or not isinstance(own, ToolEnv):
        return f"{line}; Ctrl-D ends."
    function = tools[0]["function"]
    schemas = function.get("parameters", {}).get("properties", {})
    needed = function.get("parameters", {}).get("required", schemas)
    arguments = {name: _EXAMPLES.get(str(schemas[name].get("type")), "...") for name in needed if name in schemas}
    call = own.write_call(function["name"], arguments).strip()
    flat = " ".join(call.split())
    read = PARSERS[own.tool_parser]
    if read(flat) != read(call):  # the form needs its line breaks
        flat = call.replace("\n", "\\\n")
    return f"{line}; a call: {flat}; Ctrl-D ends." if "\n" not in flat else f"{line}; Ctrl-D ends. A call:\n{flat}"


def _read_turn() -> str:
    """Read a turn from the terminal or a pipe: one line, and more while a line ends in a backslash."""
    lines = [input("assistant> ")]
    while sys.stdin.isatty() and not lines[0].strip():  # a slip of the hand; from a pipe it is an empty turn
        lines = [input("assistant> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("> "))
    return "\n".join(lines)


def _say_tools(tools: Iterable[Mapping[str, Any]], say: Say) -> None:
    """Show each tool with its parameters and its description."""
    for tool in tools:
        function = tool["function"]
        parameters = function.get("parameters", {}).get("properties", {})
        listed = ", ".join(f"{name}: {schema.get('type', 'any')}" for name, schema in parameters.items())
        say(f"[tool {function['name']}({listed})] {function.get('description', '')}")


def _say_messages(messages: Iterable[Mapping[str, Any]], say: Say) -> None:
    """Show messages by role; a tool's answer by the tool's name."""
    for message in messages:
        name = f" {message['name']}" if message.get("name") else ""
        say(f"[{message['role']}{name}] {message['content']}")


def _say_tokens(renderer: Renderer, token_ids: list[int], say: Say) -> None:
    """Show what token ids spell, special tokens included."""
    text = renderer.tokenizer.backend_tokenizer.decode(token_ids, skip_special_tokens=False)
    say(f"[{len(token_ids)} tokens]\n{text}")


def _extend(
    renderer: Renderer, conversation: RenderedConversation, text: str, added: list[dict[str, Any]], say: Say
) -> None:
    """Show what the template adds after a turn."""
    token_ids = conversation.extend({"role": "assistant", "content": text}, added)
    _say_tokens(renderer, token_ids, say)
