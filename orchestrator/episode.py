"""One episode: an environment and a policy take turns, token ids in, token ids out."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from orchestrator.environment_pool import close_quietly
from orchestrator.seeding import derive
from policies.engine import Generation, GenerationRequest
from policies.rendering import RenderedConversation, Renderer
from policies.trajectory import Trajectory, TurnRecord


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn in one batch of episodes."""

    temperature: float
    """0 decodes greedily."""
    max_tokens: int
    """Longest assistant turn in tokens."""


@dataclass(frozen=True, slots=True)
class EpisodeJob:
    """An episode to run."""

    group: int
    """Number of the prompt within the batch."""
    sample: int
    """Number of the sibling within the group."""
    task_index: int
    """Which task of the environment's split."""
    seed: int
    """Seed of this episode's sampling."""


class SharedByGroup:
    """Tasks and rendered openings of a batch: siblings have the same. Environment threads share it."""

    def __init__(self) -> None:
        self._tasks: dict[int, Any] = {}
        self._openings: dict[str, RenderedConversation] = {}

    def task(self, index: int, make_task: Callable[[int], Any]) -> Any:
        """Task number `index`, made once; each sibling gets a copy, as an environment may change its task."""
        if index not in self._tasks:
            self._tasks[index] = make_task(index)
        return copy.deepcopy(self._tasks[index])

    def opening(
        self, renderer: Renderer, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
    ) -> RenderedConversation:
        """The conversation that opens so, rendered once; each sibling gets a copy, which grows by itself."""
        key = repr((messages, tools))
        if key not in self._openings:
            self._openings[key] = renderer.conversation(messages, tools or None)
        return self._openings[key].copy()


@dataclass(slots=True)
class Episode:
    """One episode between turns: `begin` and `advance` run in an environment thread, `accept` in the engine's loop."""

    job: EpisodeJob
    take_env: Callable[[], gymnasium.Env]
    """Gives an environment; called in the environment thread, as a constructor may be slow, too."""
    renderer: Renderer
    sampling: Sampling
    max_model_len: int
    shared: SharedByGroup
    """What siblings need not compute again."""
    trajectory: Trajectory = field(init=False)
    """What has happened so far."""
    env: gymnasium.Env | None = None
    """The environment, once `begin` has it."""
    conversation: RenderedConversation | None = None
    """What the template has made of the messages, once the environment has given the first ones."""
    started: float = math.nan
    over: bool = False
    """Whether it has ended, one way or the other."""
    _lock: threading.Lock = field(default_factory=threading.Lock)  # a late thread must not write after `fail`

    def __post_init__(self) -> None:
        self.trajectory = Trajectory(self.job.group, self.job.sample, {}, status="")

    def begin(self) -> GenerationRequest | None:
        """Take and reset an environment and ask for the first turn; None when the prompt leaves no room for one."""
        self.started = time.perf_counter()
        env = self.take_env()
        with self._lock:
            late = self.over
            self.env = None if late else env
        if late:
            close_quietly(env)
            return None
        # gymnasium passes unknown attributes of wrappers on to `unwrapped` only on request
        make_task = getattr(env.unwrapped, "task", None)
        options = None
        if callable(make_task):
            options = {"task": self.shared.task(self.job.task_index, make_task)}
        observation, info = env.reset(seed=derive(self.job.task_index, "environment"), options=options)
        with self._lock:
            if self.over:
                return None
            trajectory = self.trajectory
            trajectory.task = dict(info.get("task", {}))
            trajectory.messages = [dict(message) for message in observation]
            self.conversation = self.shared.opening(self.renderer, trajectory.messages, list(info.get("tools", [])))
            trajectory.add_environment_tokens(self.conversation.prompt_token_ids)
            return self._request()

    def accept(self, generation: Generation) -> None:
        """Record a sampled turn exactly as the engine returned it."""
        self.trajectory.add_turn(
            TurnRecord(
                prompt_token_ids=generation.prompt_token_ids,
                token_ids=generation.token_ids,
                logprobs=generation.logprobs,
                finish_reason=generation.finish_reason,
                policy_version=generation.policy_version,
            )
        )

    def advance(self) -> GenerationRequest | None:
        """Give the last turn to the environment; the next request, or None when the episode is over.

        A turn that the length limit cut is still graded, and ends the episode as truncated.
        """
        assert self.env is not None, "`begin` comes first"
        turn = self.trajectory.turns[-1]
        text = self.renderer.parse(turn.token_ids)
        self.trajectory.messages.append({"role": "assistant", "content": text})
        observation, reward, terminated, truncated, info = self.env.step(text)
        with self._lock:
            if self.over:
                return None
            return self._take(turn, observation, float(reward), terminated, truncated, info)

    def fail(self, status: str, error: str) -> None:
        """End the episode because its environment failed or was late; its reward so far stands."""
        with self._lock:
            self.trajectory.error = error
            self._end(status)

    def _take(
        self, turn: TurnRecord, observation: Any, reward: float, terminated: bool, truncated: bool, info: dict[str, Any]
    ) -> GenerationRequest | None:
        """Take what the environment made of a turn into the trajectory."""
        if not math.isfinite(reward):
            raise ValueError(f"the environment's reward must be finite, got {reward}")
        trajectory = self.trajectory
        trajectory.reward += reward
        for name, value in info.get("metrics", {}).items():
            trajectory.metrics[name] = trajectory.metrics.get(name, 0.0) + float(value)
        cut = turn.finish_reason == "length"
        if cut or truncated or terminated:
            named = None if cut else info.get("status")
            self._end(named or ("truncated" if cut or truncated else "finished"))
            return None
        new_messages = [dict(message) for message in observation]
        sampled_end = self.renderer.ends_turn(turn.token_ids[-1])
        assert self.conversation is not None, "`begin` comes first"
        added = self.conversation.extend(trajectory.messages[-1], new_messages, end_of_turn_sampled=sampled_end)
        trajectory.add_environment_tokens(added)
        trajectory.messages += new_messages
        return self._request()

    def _end(self, status: str) -> None:
        self.over = True
        self.trajectory.status = status
        self.trajectory.seconds = 0.0 if math.isnan(self.started) else time.perf_counter() - self.started

    def _request(self) -> GenerationRequest | None:
        """The request for the next turn; None, and truncated, when no token fits any more."""
        trajectory = self.trajectory
        room = self.max_model_len - len(trajectory.token_ids)
        if room < 1:
            self._end("truncated")
            return None
        number = len(trajectory.turns)
        return GenerationRequest(
            request_id=f"{self.job.group}-{self.job.sample}-{number}",
            prompt_token_ids=list(trajectory.token_ids),
            seed=derive(self.job.seed, "turn", number),
            max_tokens=min(self.sampling.max_tokens, room),
            temperature=self.sampling.temperature,
        )
