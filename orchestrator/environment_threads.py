"""Threads in which environments reset and step, with a time limit per call."""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError

POLL_S = 0.05  # how often a wait looks for calls that are over their limit
log = logging.getLogger("rejuvenate")
SMOOTHING = 0.02  # how much one call counts in what is usual


@dataclass(slots=True)
class Outcome:
    """What became of one call."""

    number: int
    """How many calls were started before it."""
    owner: Any
    """Whose call it was."""
    value: Any = None
    """What it returned."""
    failure: tuple[str, str] | None = None
    """Status and message, when it raised or took too long."""


class _Call:
    """A call on its way through a thread."""

    def __init__(self, number: int, owner: Any, call: Callable[[], Any]) -> None:
        self.number = number
        self.owner = owner
        self.call = call
        self.started: float | None = None  # None while it waits for a thread
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.over = False
        self.abandoned = False  # nobody waits for it any more
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call and keep what came of it."""
        try:
            self.value = self.call()
        except BaseException as error:  # a user's environment may raise anything, SystemExit too
            self.error = error

    def outcome(self) -> Outcome:
        """The outcome of a call that is over.

        Raises:
            ConfigError: the call found the configuration broken, which no other episode would survive either.
        """
        if isinstance(self.error, ConfigError):
            raise self.error
        if self.error is not None:
            failure = ("environment_error", f"{type(self.error).__name__}: {self.error}")
            return Outcome(self.number, self.owner, failure=failure)
        return Outcome(self.number, self.owner, value=self.value)


class EnvironmentThreads:
    """A pool of threads with a queue of calls.

    A thread whose call takes too long is left behind and another takes its place, so that calls queued behind it go on.
    The threads are daemons: one that hangs for ever does not keep the process from ending.

    Args:
        threads: number of threads.
        timeout_s: longest a call may run; past it the call counts as `timed_out`.
    """

    def __init__(self, threads: int, timeout_s: float) -> None:
        self._threads = threads
        self._timeout_s = timeout_s
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._calls: dict[int, _Call] = {}  # those whose outcome nobody has yet
        self._finished: deque[_Call] = deque()
        self._lock = threading.Lock()  # decides whether a call was over or abandoned first
        self._wake = threading.Event()
        self._wake_at_each = False  # else when the last one is over: each wake-up costs a change of threads
        self._numbers = itertools.count()
        self._usual_s = math.inf
        self._usual_cpu_s = 0.0
        self._logged: set[tuple[str, str, int | None]] = set()
        for _ in range(threads):
            self._add_thread()

    def start(self, owner: Any, call: Callable[[], Any]) -> None:
        """Queue `call`; its `Outcome` names `owner`."""
        entry = _Call(next(self._numbers), owner, call)
        self._calls[entry.number] = entry
        self._queue.put(entry)

    def collect(self, *, patience_s: float, wait_for_one: bool, deadline: float = math.inf) -> list[Outcome]:
        """Outcomes of the calls that are over, in the order in which the calls were started.

        Args:
            patience_s: wait for every call, at most this long, if calls usually compute (rather than wait for
                something) and will have done so by then: this process has to do that work in any case. `inf`: wait for
                every call whatever it does; 0: for none.
            wait_for_one: wait, however long, until at least one is over.
            deadline: time (`time.monotonic`) after which nothing is waited for, whatever is still under way.

        Raises:
            ConfigError: a call raised it.
        """
        outcomes: list[Outcome] = []
        begun = time.monotonic()
        computing = self._usual_s <= 2 * self._threads * self._usual_cpu_s  # threads take turns in computing
        soon = computing and len(self._calls) * self._usual_cpu_s <= patience_s
        wait_for_all = patience_s == math.inf or soon
        while True:
            self._wake.clear()
            outcomes += self._over() + self._overdue()
            now = time.monotonic()
            wait_for_all = wait_for_all and now - begun < patience_s
            enough = not self._calls or not (wait_for_all or (wait_for_one and not outcomes))
            if enough or now >= deadline:
                return sorted(outcomes, key=lambda outcome: outcome.number)
            self._wake_at_each = not wait_for_all
            if not self._finished:  # else one ended before it could know that it is to wake
                self._wake.wait(min(POLL_S, begun + patience_s - now) if wait_for_all else POLL_S)

    def forget(self) -> None:
        """Drop all calls; threads that still run one are left behind."""
        for entry in self._calls.values():
            self._abandon(entry)
        self._calls.clear()
        self._finished.clear()

    def close(self) -> None:
        """Drop all calls and end the threads; does not wait for those that hang."""
        self.forget()
        for _ in range(self._threads):
            self._queue.put(None)

    def _over(self) -> list[Outcome]:
        over = []
        while self._finished:
            entry = self._finished.popleft()
            if self._calls.pop(entry.number, None) is None:
                continue
            if self._usual_s == math.inf:
                self._usual_s, self._usual_cpu_s = entry.seconds, entry.cpu_seconds
            self._usual_s += SMOOTHING * (entry.seconds - self._usual_s)
            self._usual_cpu_s += SMOOTHING * (entry.cpu_seconds - self._usual_cpu_s)
            over.append(entry)
            if entry.error is not None:
                self._log_once(entry.error)
        return [entry.outcome() for entry in over]

    def _log_once(self, error: BaseException) -> None:
        """Log what an environment raised, with its traceback, the first time that it comes from this line."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        key = (type(error).__name__, place.filename, place.lineno)
        if key not in self._logged:
            self._logged.add(key)
            log.warning("an environment raised (said once):", exc_info=error)

    def _overdue(self) -> list[Outcome]:
        """Abandon calls that ran too long."""
        now = time.monotonic()
        late = [
            entry
            for entry in self._calls.values()
            if entry.started is not None and now - entry.started > self._timeout_s and self._abandon(entry)
        ]
        for entry in late:
            del self._calls[entry.number]
        message = f"the environment took longer than rollout.step_timeout_s = {self._timeout_s:g} s"
        return [Outcome(entry.number, entry.owner, failure=("timed_out", message)) for entry in late]

    def _abandon(self, entry: _Call) -> bool:
        """Give up a call, and its thread if it has one; False when it is over already."""
        with self._lock:
            if entry.over:
                return False
            entry.abandoned = True
            if entry.started is not None:
                self._add_thread()
            return True

    def _add_thread(self) -> None:
        threading.Thread(target=self._work, name="environment", daemon=True).start()

    def _work(self) -> None:
        """Make calls until told to end, or until left behind."""
        while (entry := self._queue.get()) is not None:
            with self._lock:
                if entry.abandoned:
                    continue
                entry.started = time.monotonic()
            cpu_before = time.thread_time()
            entry.run()
            entry.cpu_seconds = time.thread_time() - cpu_before
            entry.seconds = time.monotonic() - entry.started
            with self._lock:
                entry.over = True
                if entry.abandoned:
                    return
                self._finished.append(entry)
                if self._wake_at_each or len(self._finished) >= len(self._calls):
                    self._wake.set()
