"""Idle environments that wait for the next episode of their kind, in threads or in processes of their own."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Protocol

import gymnasium

from configs.environment import EnvironmentConfig
from envs.processes import ForkServer, Process, ProcessEnv
from envs.processes.process import CLOSE_S, END_S
from envs.registry import make


class Processes(Protocol):
    """Where processes for environments come from: this machine's fork server, or hosts elsewhere."""

    def begin(self) -> None:
        """Get ready, so that `start` is quick."""
        ...

    def start(self, memory_bytes: int) -> Process:
        """Start a process that may use so much memory."""
        ...

    def close(self) -> None:
        """End all of them."""
        ...


class EnvironmentPool:
    """Makes environments and keeps healthy ones for later episodes; environment threads share it.

    It keeps as many idle ones, of all kinds together, as it was ever told to have room for. Beyond that those go whose
    kind was used longest ago.

    Args:
        processes: where those that are isolated in processes get them; by default from this machine.
        timeout_s: longest a call of one of these may take before it is killed.
        most_processes: most of these at once, of all kinds together, as long as no more are taken at once.
    """

    def __init__(self, processes: Processes | None = None, timeout_s: float = 60.0, most_processes: int = 16) -> None:
        self._processes = processes or ForkServer()
        self._timeout_s = timeout_s
        self._most_processes = most_processes
        self._limit = 0
        self._idle: dict[str, list[gymnasium.Env]] = {}  # the kind used last is last
        self._lock = threading.Lock()

    def make_room(self, count: int) -> None:
        """Keep up to `count` idle environments from now on: as many will be open at once, so that it costs no more."""
        self._limit = max(self._limit, count)

    def begin(self, environment: EnvironmentConfig, count: int) -> None:
        """Get ready to take up to `count` environments of this kind; may take seconds, which no episode has to wait.

        Idle processes of other kinds are closed as far as those of this kind would otherwise be too many beside them.
        """
        if environment.isolation == "process":
            self._processes.begin()
            closing = [close_aside(env) for env in self._surplus(environment, count)]
            deadline = time.monotonic() + CLOSE_S + END_S
            for thread in closing:
                thread.join(max(0.0, deadline - time.monotonic()))

    def take(self, environment: EnvironmentConfig) -> gymnasium.Env:
        """An idle environment of this kind, or a new one (whose constructor may raise or hang)."""
        while (env := self._idle_one(environment)) is not None:
            if not (isinstance(env, ProcessEnv) and env.worn_out()):
                return env
            close_aside(env)
        if environment.isolation == "process":
            return ProcessEnv(self._processes.start(environment.memory_bytes), environment, self._timeout_s)
        return make(environment.id, environment.kwargs, environment.wrappers)

    def give_back(self, environment: EnvironmentConfig, env: gymnasium.Env) -> None:
        """Keep a healthy environment."""
        with self._lock:
            self._used(environment).append(env)
            surplus = None
            if sum(map(len, self._idle.values())) > self._limit:
                surplus = next(idle for idle in self._idle.values() if idle).pop(0)
        if surplus is not None:
            close_aside(surplus)

    def close(self) -> None:
        """Close all idle environments."""
        with self._lock:
            pools, self._idle = list(self._idle.values()), {}
        for env in (env for idle in pools for env in idle):
            close_quietly(env)
        self._processes.close()

    def _idle_one(self, environment: EnvironmentConfig) -> gymnasium.Env | None:
        with self._lock:
            idle = self._used(environment)
            return idle.pop() if idle else None

    def _surplus(self, environment: EnvironmentConfig, count: int) -> list[gymnasium.Env]:
        """Idle processes of other kinds for which there is no room beside `count` of this one; they leave the pool."""
        with self._lock:
            own = self._used(environment)
            others = [idle for idle in self._idle.values() if idle is not own]
            processes = [(env, idle) for idle in others for env in idle if isinstance(env, ProcessEnv)]
            room = self._most_processes - max(len(own), min(count, self._most_processes))
            surplus = processes[: max(0, len(processes) - room)]
            for env, idle in surplus:
                idle.remove(env)
            return [env for env, _ in surplus]

    def _used(self, environment: EnvironmentConfig) -> list[gymnasium.Env]:
        """The idle ones of a kind, which becomes the one used last."""
        kind = repr(environment)
        idle = self._idle.pop(kind, [])
        self._idle[kind] = idle
        return idle


def close_aside(env: gymnasium.Env) -> threading.Thread:
    """Close an environment in a thread of its own, which is returned: closing may hang."""
    thread = threading.Thread(target=close_quietly, args=(env,), name="discard", daemon=True)
    thread.start()
    return thread


def close_quietly(env: gymnasium.Env) -> None:
    """Close an environment; what it raises at that is nobody's business any more."""
    with contextlib.suppress(Exception):
        env.close()
