"""The base of every environment here: a conversation as a `gymnasium.Env`.

The action is the assistant's text, the observation the messages added since the last step. A single-turn task overrides
three methods:

```python
class Doubling(ConversationEnv):
    def sample_task(self, rng):
        return {"number": int(rng.integers(10_000))}

    def first_messages(self, task):
        return f"What is twice {task['number']}?"

    def respond(self, text):
        return Reply(reward=float(text.strip() == str(2 * self.current_task["number"])), terminated=True)
```
"""

from __future__ import annotations

import copy
import json
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from configs import bounds
from configs.errors import ConfigError
from envs.spaces import ChatText, Message, Messages, as_messages
from envs.splits import SHARES, canonical, split_of, task_rng

KWARGS = "environment.kwargs."
STATUSES = ("finished", "truncated", "tool_error", "environment_error", "timed_out")
"""How an episode may end; `info["status"]` of its last step is one of them."""
EVALUATION_TASKS = 1000
"""Number of tasks that a generated split other than `train` offers."""
_MAX_DRAWS = 10_000


@dataclass(slots=True)
class Reply:
    """What the environment answers to one assistant turn.

    Args:
        messages: messages added to the conversation; a string is one user message.
        reward: reward of this turn; an episode's reward is the sum over its turns.
        terminated: whether the task ended here (the limit on turns is not its business).
        metrics: numbers of this turn, summed over the episode by whoever runs it.
        status: how the episode ended, where `finished` would not be right: another of
            `STATUSES`, `tool_error` say.
    """

    messages: str | Sequence[Message] = ()
    reward: float = 0.0
    terminated: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    status: str | None = None


class ConversationEnv(gymnasium.Env[tuple[Message, ...], str]):
    """A conversation with one task per episode.

    Authors override `sample_task` (or `task`), `first_messages` and `respond`, and where they need it `begin` (set the
    episode's state) and `expert_turns` (demonstrations). The task of the running episode is `self.current_task`.

    `info` holds `task` (JSON; `reset(options={"task": task})` reproduces the episode), `tools` (JSON schemas, `[]`
    without tools), `metrics` (floats of this step) and, on the last step, `status` (`finished`, `truncated` or what
    the author's reply says).

    Args:
        split: `train`, `heldout`, `ood` or `tuning`: which tasks `task` and `reset` draw. Splits are disjoint.
        seed: seed of the tasks; `task(index)` is a pure function of (seed, split, index).
        max_turns: assistant turns after which an episode that has not terminated is truncated.
        render_mode: `ansi` makes `render` return the conversation as text.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - gymnasium's own convention

    max_reward: float = 1.0
    """Reward of a perfect episode; the checker compares the demonstrations with it."""
    uses_user_model: bool = False
    """Whether its episodes talk to the model that the run serves; see `envs.user_model`."""

    def __init__(
        self, *, split: str = "train", seed: int = 0, max_turns: int = 8, render_mode: str | None = None
    ) -> None:
        bounds.one_of(KWARGS, "split", split, SHARES)
        for name, value, least in (("seed", seed, 0), ("max_turns", max_turns, 1)):
            check_integer(name, value, f">= {least}", least)
            bounds.at_least(KWARGS, name, value, least)
        if render_mode is not None:
            bounds.one_of(KWARGS, "render_mode", render_mode, self.metadata["render_modes"])
        self.split = split
        self.task_seed = seed
        self.max_turns = max_turns
        self.render_mode = render_mode
        self.num_tasks: int | None = None if split == "train" else EVALUATION_TASKS
        self.action_space = ChatText()
        self.observation_space = Messages()
        self.current_task: dict[str, Any] = {}
        self.messages: list[Message] = []
        self.turns = 0
        self.demonstrating = False
        self._task_json = ""
        self._tools_json = "[]"
        self._running = False

    # ---- what authors override -----------------------------------------------------------------------------------

    def sample_task(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a task: a dict that JSON can hold. Use `rng` and nothing else for chance."""
        raise NotImplementedError(f"{type(self).__name__} must define sample_task(rng) or task(index).")

    def begin(self, task: dict[str, Any]) -> None:
        """Set up the state of a new episode; called before `first_messages`."""

    def first_messages(self, task: dict[str, Any]) -> str | Sequence[Message]:
        """Return the messages that open the episode; a string is one user message."""
        raise NotImplementedError(f"{type(self).__name__} must define first_messages(task).")

    def respond(self, text: str) -> Reply:
        """Answer the assistant's turn `text`."""
        raise NotImplementedError(f"{type(self).__name__} must define respond(text).")

    def expert_turns(self, task: dict[str, Any]) -> list[str] | None:
        """Return the texts of an expert's assistant turns, in order; None where there is no expert."""
        return None

    def task(self, index: int) -> dict[str, Any]:
        """Return task number `index` of the split.

        By default: the first draw of `sample_task`, from a generator seeded with (seed, split, index), whose hash
        belongs to the split. Override it to read tasks from a dataset (and set `self.num_tasks`).

        Raises:
            ValueError: the index is outside `num_tasks`, or no draw belongs to the split.
        """
        if index < 0 or (self.num_tasks is not None and index >= self.num_tasks):
            raise ValueError(f"task index must lie in [0, {self.num_tasks}), got {index}.")
        rng = task_rng(self.task_seed, self.split, index)
        for _ in range(_MAX_DRAWS):
            task = json.loads(self._to_json("task", self.sample_task(rng)))
            if split_of(self.task_key(task)) == self.split:
                return task
        raise ValueError(
            f"{type(self).__name__}.sample_task gave no task of split {self.split!r} in {_MAX_DRAWS} draws: it has too "
            f"few different tasks to be split by hash. Widen it, or override task(index)."
        )

    def task_key(self, task: dict[str, Any]) -> str:
        """Return the text whose hash decides the task's split: equal problems must have equal keys."""
        return canonical(task)

    # ---- gymnasium -----------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the choice of the task where `options` does not name one.
            options: `{"task": {...}}` starts on that task, `{"index": i}` on task number i of the split; with
                `"demonstration": True` an expert is to play, and `self.demonstrating` says so: nobody who costs time
                or money need be asked then.

        Returns:
            The opening messages and `info`.
        """
        super().reset(seed=seed)
        options = options or {}
        if "task" in options:
            task = options["task"]
        elif "index" in options:
            task = self.task(options["index"])
        else:
            task = self.task(int(self.np_random.integers(self.num_tasks or 2**31)))
        self._task_json = self._to_json("task", task)
        self.current_task = json.loads(self._task_json)  # what a later reset with info["task"] will see
        if not isinstance(self.current_task, dict):
            raise ValueError(f"{type(self).__name__}: a task must be a dict, got {type(task).__name__}.")
        self.demonstrating = bool(options.get("demonstration"))
        self.turns = 0
        self.messages = []
        self.begin(self.current_task)
        observation = self._add(self.first_messages(self.current_task), "first_messages")
        self._running = True
        return observation, self._info({})

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """Take the assistant's text and answer it.

        Args:
            action: the text of the assistant's turn.

        Returns:
            The messages added in answer, the reward, terminated, truncated (the limit on turns), and `info`.

        Raises:
            gymnasium.error.ResetNeeded: no episode is running.
            ValueError: the action is no text.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded(
                f"{type(self).__name__}.step was called with no episode running (before reset, or after the episode "
                f"ended). Call reset first."
            )
        if not isinstance(action, str):
            raise ValueError(f"the action must be the assistant's text (str), got {type(action).__name__}.")
        self.messages.append({"role": "assistant", "content": action})
        self.turns += 1
        reply = self.respond(action)
        if not isinstance(reply, Reply):
            raise ValueError(f"{type(self).__name__}.respond must return a Reply, got {type(reply).__name__}.")
        reward = float(reply.reward)
        if not math.isfinite(reward):
            raise ValueError(f"{type(self).__name__}.respond gave a reward that is not finite: {reward}.")
        observation = self._add(reply.messages, "respond")
        terminated = bool(reply.terminated)
        truncated = not terminated and self.turns >= self.max_turns
        info = self._info(reply.metrics)
        if terminated or truncated:
            self._running = False
            info["status"] = reply.status or ("finished" if terminated else "truncated")
        return observation, reward, terminated, truncated, info

    def render(self) -> str | None:  # type: ignore[override]
        """Return the conversation so far as text in render mode `ansi`, otherwise None."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(f"{m.get('name', m['role'])}: {m['content']}" for m in self.messages)

    # ---- demonstrations ------------------------------------------------------------------------------------------

    def demonstration(self) -> list[Message] | None:
        """Play the expert on the current task.

        Returns:
            The whole conversation: the opening messages, the expert's turns and what the environment answered; None
            where there is no expert. The episode has then ended: reset before stepping.

        Raises:
            ConfigError: `max_turns` ends the episode before the expert has said everything.
        """
        if not self._task_json:
            raise gymnasium.error.ResetNeeded(f"{type(self).__name__}.demonstration needs a task. Call reset first.")
        self.reset(options={"task": json.loads(self._task_json), "demonstration": True})
        turns = self.expert_turns(self.current_task)
        if turns is None:
            return None
        terminated = truncated = False
        for text in turns:
            if truncated:
                rule = f"must be >= {len(turns)}, the turns that the expert takes on one of the tasks"
                fix = f"Set it to {len(turns)} or more, or choose shorter tasks."
                raise ConfigError(KWARGS + "max_turns", rule, self.max_turns, fix)
            if terminated:
                raise ValueError(f"{type(self).__name__}.expert_turns goes on after the episode has ended: {turns!r}.")
            _, _, terminated, truncated, _ = self.step(text)
        return copy.deepcopy(self.messages)

    # ---- inside --------------------------------------------------------------------------------------------------

    def _add(self, added: str | Sequence[Message], method: str) -> tuple[Message, ...]:
        """Append messages to the conversation and return copies of them, the observation."""
        messages = as_messages(added)
        if not self.observation_space.contains(tuple(messages)):
            raise ValueError(
                f"{type(self).__name__}.{method} must give a string or messages "
                f'{{"role": "system" | "user" | "assistant" | "tool", "content": text}}, got {messages!r}.'
            )
        self.messages.extend(messages)
        return tuple(copy.deepcopy(message) for message in messages)

    def _info(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Return a fresh `info`: nothing in it is shared with the environment or with an earlier one."""
        return {
            "task": json.loads(self._task_json),
            "tools": json.loads(self._tools_json),
            "metrics": {name: float(value) for name, value in metrics.items()},
        }

    def _to_json(self, what: str, value: Any) -> str:
        """Return `value` as JSON, or say that the author's value is none."""
        try:
            return json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{type(self).__name__}: a {what} must be plain JSON (dict, list, str, int, float, bool): {error}."
                f" Convert numpy values with int(), float() or str()."
            ) from error


def check_integer(name: str, value: object, bound: str, example: int) -> None:
    """Raise `ConfigError` unless a keyword argument is an integer; `bound` says in words which ones it may be."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ConfigError(KWARGS + name, f"must be an integer {bound}", value, f"Write {name}={example}, say.")


def check_range(low_name: str, low: int, high_name: str, high: int, least: int, most: int) -> None:
    """Raise `ConfigError` unless `least <= low <= high <= most`, naming the keyword argument at fault."""
    for name, value in ((low_name, low), (high_name, high)):
        check_integer(name, value, f"in [{least}, {most}]", least)
        bounds.within(KWARGS, name, value, least, most)
    if low > high:
        raise ConfigError(KWARGS + low_name, f"must be <= {high_name} ({high})", low, f"Raise {high_name}.")
