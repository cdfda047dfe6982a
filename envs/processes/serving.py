"""The process in which an environment runs: limits itself, makes the environment, and answers calls until it is killed.

It is forked from the supervisor. Whatever code the environment runs, runs here and below.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from configs.environment import WrapperConfig
from configs.errors import ConfigError
from envs.process_tree import die_with_parent
from envs.processes import wire
from envs.registry import make
from envs.tool_env import ToolEnv

READ_OF_INFO = ("task", "tools", "metrics", "status")
"""What training reads of `info`; the rest stays here."""
TRACEBACK_CHARACTERS = 8000


def become_environment(connection: socket.socket, memory_bytes: int, supervisor: int) -> NoReturn:
    """Turn a freshly forked process into one that holds an environment."""
    try:
        die_with_parent(supervisor)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # where memory runs out, the kernel takes this one before an engine
            Path("/proc/self/oom_score_adj").write_text("500")
        random.seed()  # else all that are forked from one process draw the same
        np.random.seed()
        _serve(connection)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _serve(connection: socket.socket) -> NoReturn:
    """Answer calls, one after the other, until the connection ends."""
    held = Held()
    while True:
        try:
            request = wire.receive(connection)
        except EOFError:
            os._exit(0)
        try:
            value = held.call(request["method"], request["arguments"])
            wire.send(connection, {"value": value})
        except BaseException as error:  # the author's code may raise anything, SystemExit too
            wire.send(connection, _described(error))


def _described(error: BaseException) -> dict[str, Any]:
    """Return an error as plain data."""
    if isinstance(error, ConfigError):
        value = error.value if isinstance(error.value, str | int | float | bool | None) else repr(error.value)
        return {"config": [error.field, error.rule, value, error.fix]}
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{type(error).__name__} in {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__
    text = "".join(traceback.format_exception(error))
    return {"error": f"{type(error).__name__}: {error}", "place": place, "traceback": text[-TRACEBACK_CHARACTERS:]}


class Held:
    """The environment of this process, and the calls that it answers."""

    def __init__(self) -> None:
        self.env: Any = None

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """Make one of `CALLS`."""
        return CALLS[method](self, **arguments)

    def make(
        self, environment_id: str, kwargs: dict[str, Any], wrappers: list[dict[str, Any]], path: list[str]
    ) -> dict[str, Any]:
        """Make the environment and say what it has beside the methods of every `gymnasium.Env`."""
        sys.path[:] = path
        self.env = make(environment_id, kwargs, [WrapperConfig(**wrapper) for wrapper in wrappers])
        own = self.env.unwrapped
        extras = [name for name in ("task", "demonstration") if callable(getattr(own, name, None))]
        extras += ["tools"] if isinstance(own, ToolEnv) else []
        extras += ["user model"] if getattr(own, "uses_user_model", False) else []
        return {"extras": extras, "num_tasks": getattr(own, "num_tasks", None)}

    def task(self, index: int) -> Any:
        """Make a task."""
        return self.env.unwrapped.task(index)

    def demonstration(self) -> Any:
        """Play the expert."""
        return self.env.unwrapped.demonstration()

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> list[Any]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return [list(observation), _read_of(info)]

    def step(self, action: str) -> list[Any]:
        """Take a turn."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return [list(observation), float(reward), bool(terminated), bool(truncated), _read_of(info)]

    def close(self) -> None:
        """Close the environment."""
        if self.env is not None:
            self.env.close()


def _read_of(info: dict[str, Any]) -> dict[str, Any]:
    """Return what training reads of `info`."""
    return {name: info[name] for name in READ_OF_INFO if name in info}


CALLS: dict[str, Callable[..., Any]] = {
    "make": Held.make,
    "task": Held.task,
    "demonstration": Held.demonstration,
    "reset": Held.reset,
    "step": Held.step,
    "close": Held.close,
}
"""What may be called from outside."""
