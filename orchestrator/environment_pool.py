"""Idle environments that wait for the next episode of their kind."""

from __future__ import annotations

import contextlib
import threading

import gymnasium

from configs.environment import EnvironmentConfig
from envs.registry import make


class EnvironmentPool:
    """Makes environments and keeps healthy ones for later episodes; environment threads share it.

    It keeps as many idle ones, of all kinds together, as it was ever told to have room for. Beyond that those go whose
    kind was used longest ago.
    """

    def __init__(self) -> None:
        self._limit = 0
        self._idle: dict[str, list[gymnasium.Env]] = {}  # the kind used last is last
        self._lock = threading.Lock()

    def make_room(self, count: int) -> None:
        """Keep up to `count` idle environments from now on: as many will be open at once, so that it costs no more."""
        self._limit = max(self._limit, count)

    def take(self, environment: EnvironmentConfig) -> gymnasium.Env:
        """An idle environment of this kind, or a new one (whose constructor may raise or hang)."""
        with self._lock:
            idle = self._used(environment)
            if idle:
                return idle.pop()
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

    def _used(self, environment: EnvironmentConfig) -> list[gymnasium.Env]:
        """The idle ones of a kind, which becomes the one used last."""
        kind = repr(environment)
        idle = self._idle.pop(kind, [])
        self._idle[kind] = idle
        return idle


def close_aside(env: gymnasium.Env) -> None:
    """Close an environment in a thread of its own: closing may hang."""
    threading.Thread(target=close_quietly, args=(env,), name="discard", daemon=True).start()


def close_quietly(env: gymnasium.Env) -> None:
    """Close an environment; what it raises at that is nobody's business any more."""
    with contextlib.suppress(Exception):
        env.close()
