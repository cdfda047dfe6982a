"""Threads in which environments reset and step, with a time limit per call."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any

POLL_S = 0.05  # how often a wait looks for calls that are over their limit


@dataclass(slots=True)
class Outcome:
    """What became of one call."""

    owner: Any
    """Whose call it was."""
    value: Any = None
    """What it returned."""
    failure: tuple[str, str] | None = None
    """Status and message, when it raised or took too long."""


class _Call:
    """A call in a thread; `started` is None while it waits for one."""

    def __init__(self, owner: Any, call: Callable[[], Any]) -> None:
        self.owner = owner
        self.call = call
        self.started: float | None = None
        self.future: futures.Future = futures.Future()

    def __call__(self) -> Any:
        self.started = time.monotonic()
        return self.call()


class EnvironmentThreads:
    """A pool of threads whose calls are collected in the order in which they were started.

    Args:
        threads: number of threads.
        timeout_s: longest a call may run; past it the thread is left behind and the call counts as `timed_out`.
    """

    def __init__(self, threads: int, timeout_s: float) -> None:
        self._threads = threads
        self._timeout_s = timeout_s
        self._pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="environment")
        self._calls: list[_Call] = []

    def start(self, owner: Any, call: Callable[[], Any]) -> None:
        """Queue `call`; its `Outcome` names `owner`."""
        entry = _Call(owner, call)
        entry.future = self._pool.submit(entry)
        self._calls.append(entry)

    def collect(self, *, wait_for_all: bool, wait_for_one: bool) -> list[Outcome]:
        """Outcomes of the calls that are over.

        Args:
            wait_for_all: wait for every call.
            wait_for_one: wait until at least one is over.
        """
        outcomes: list[Outcome] = []
        while True:
            outcomes += self._finished() + self._overdue()
            if not self._calls or not (wait_for_all or (wait_for_one and not outcomes)):
                return outcomes
            until = futures.ALL_COMPLETED if wait_for_all else futures.FIRST_COMPLETED
            futures.wait([entry.future for entry in self._calls], timeout=POLL_S, return_when=until)

    def forget(self) -> None:
        """Drop all calls; threads that still run are left behind."""
        self._replace_pool()
        self._calls.clear()

    def close(self) -> None:
        """Take no more calls; does not wait for threads that hang."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _finished(self) -> list[Outcome]:
        outcomes = []
        still = []
        for entry in self._calls:
            if not entry.future.done():
                still.append(entry)
                continue
            error = entry.future.exception()
            if error is None:
                outcomes.append(Outcome(entry.owner, value=entry.future.result()))
            else:
                outcomes.append(Outcome(entry.owner, failure=("environment_error", f"{type(error).__name__}: {error}")))
        self._calls = still
        return outcomes

    def _overdue(self) -> list[Outcome]:
        """End calls that ran too long; calls that were queued behind them move to fresh threads."""
        now = time.monotonic()
        late = [c for c in self._calls if c.started is not None and now - c.started > self._timeout_s]
        if not late:
            return []
        self._replace_pool()
        for entry in self._calls:
            if entry.future.cancelled():
                entry.future = self._pool.submit(entry)
        self._calls = [entry for entry in self._calls if entry not in late]
        message = f"the environment took longer than rollout.step_timeout_s = {self._timeout_s:g} s"
        return [Outcome(entry.owner, failure=("timed_out", message)) for entry in late]

    def _replace_pool(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = futures.ThreadPoolExecutor(self._threads, thread_name_prefix="environment")
