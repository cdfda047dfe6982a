"""An environment that lives in another process, as a `gymnasium.Env` of this one."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import gymnasium

from configs.environment import EnvironmentConfig
from envs.processes.fork_server import ForkServer
from envs.processes.process import EnvironmentFailure, Process
from envs.registry import make
from envs.spaces import ChatText, Message, Messages

ALONE_S = 600.0
"""Longest call of an environment that is opened outside of rollouts, to count its tasks or to show its expert."""


class ProcessEnv(gymnasium.Env[tuple[Message, ...], str]):
    """The environment, with its wrappers, that a process holds.

    It has `task` and `demonstration` where the environment has them, and its `num_tasks`. Nothing else of it can be
    reached, and its observations, rewards and `info` come as plain JSON.

    Args:
        process: where it is to live; belongs to it from here on.
        environment: what is made there.
        timeout_s: longest a call may take; then the process is killed.

    Raises:
        EnvironmentFailure: it could not be made.
        ConfigError: the environment finds its configuration broken.
    """

    limit = "rollout.step_timeout_s"
    """What `timeout_s` is called."""

    def __init__(self, process: Process, environment: EnvironmentConfig, timeout_s: float) -> None:
        self.process = process
        self.timeout_s = timeout_s
        self.environment = environment
        self.episodes = 0
        """How many were begun in it."""
        self.action_space = ChatText()
        self.observation_space = Messages()
        try:
            about = self._call(
                "make",
                environment_id=environment.id,
                kwargs=environment.kwargs,
                wrappers=[asdict(wrapper) for wrapper in environment.wrappers],
                path=sys.path,
            )
            match about:
                case {"extras": list(extras), "num_tasks": (int() | None) as num_tasks}:
                    self.num_tasks: int | None = num_tasks
                case _:
                    message = f"the environment's process answered with {str(about)[:200]}"
                    raise EnvironmentFailure("environment_error", message)
        except BaseException:
            process.close()
            raise
        self.offers_tools = "tools" in extras
        """Whether it is a `ToolEnv`."""
        self.uses_user_model = "user model" in extras
        """Whether it talks to the model that the run serves (`envs.user_model`)."""
        for name in ("task", "demonstration"):
            if name in extras:
                setattr(self, name, getattr(self, f"_{name}"))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Start an episode."""
        self.episodes += 1
        observation, info = self._call("reset", seed=seed, options=options)
        return tuple(observation), info

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """Take the assistant's text."""
        observation, reward, terminated, truncated, info = self._call("step", action=action)
        return tuple(observation), reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment and end its process and all below it."""
        self.process.close()

    def worn_out(self) -> bool:
        """Whether the process should not be used again: it had all its episodes, holds half of its memory, or ended."""
        limit = self.environment.episodes_per_process
        if limit and self.episodes >= limit:
            return True
        try:
            return not 0 < self.process.memory_bytes() <= self.environment.memory_bytes / 2
        except EnvironmentFailure:
            return True

    def _task(self, index: int) -> Any:
        return self._call("task", index=index)

    def _demonstration(self) -> Any:
        return self._call("demonstration")

    def _call(self, method: str, **arguments: Any) -> Any:
        try:
            return self.process.call(method, arguments, self.timeout_s)
        except TimeoutError:
            message = f"the environment took longer than {self.limit} = {self.timeout_s:g} s"
            raise EnvironmentFailure("timed_out", message) from None


class _AloneEnv(ProcessEnv):
    """One with a fork server of its own."""

    limit = "the limit of a single call"

    def __init__(self, environment: EnvironmentConfig) -> None:
        self._server = ForkServer()
        try:
            super().__init__(self._server.start(environment.memory_bytes), environment, ALONE_S)
        except BaseException:
            self._server.close()
            raise

    def close(self) -> None:
        super().close()
        self._server.close()


def open_environment(environment: EnvironmentConfig) -> gymnasium.Env[Any, Any]:
    """Make an environment outside of rollouts, in this process or in one of its own, as its `isolation` says."""
    if environment.isolation == "process":
        return _AloneEnv(environment)
    return make(environment.id, environment.kwargs, environment.wrappers)
