"""Threads in which environments reset and step, with a time limit per call."""

from __future__ import annotations

import contextlib
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
from envs.processes import EnvironmentFailure

POLL_S = 0.05  # how often a wait looks for calls that are over their limit
log = logging.getLogger("rejuvenate")
COMPUTING_THREADS = 8
"""Most threads for calls that compute: more would only take turns with each other, and hold up the engine's."""
QUICK_S = 0.0005
"""Calls that compute for less take turns in one thread: changing threads costs more than doing them at once wins."""
HELD_UP_S = 0.005  # how long such a call may take before those behind it go elsewhere
SMOOTHING = 0.02  # how much one call counts in what is usual
OUTLIER = 4  # how much longer than usual a call counts at most: on a busy machine some are held up
PATIENCE_FACTOR = 10  # how much longer than usual calls that compute are waited for
MOST_LOGGED = 100  # different errors of environments; what comes after is in the trajectories


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

    def __init__(self, number: int, owner: Any, call: Callable[[], Any], usual: _Usual, lane: _Lane) -> None:
        self.number = number
        self.owner = owner
        self.call = call
        self.usual = usual
        self.computes = usual.computes
        self.lane = lane
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
        if isinstance(self.error, EnvironmentFailure):
            return Outcome(self.number, self.owner, failure=(self.error.status, str(self.error)))
        if self.error is not None:
            failure = ("environment_error", f"{type(self.error).__name__}: {self.error}")
            return Outcome(self.number, self.owner, failure=failure)
        return Outcome(self.number, self.owner, value=self.value)


class _Usual:
    """What calls of one kind usually take.

    Args:
        threads: how many take turns in computing.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.seconds = math.inf
        self.cpu_seconds = 0.0

    @property
    def computes(self) -> bool:
        """Whether they compute, rather than wait for something; False also where none is known yet."""
        return self.seconds <= 2 * self._threads * self.cpu_seconds

    @property
    def waits(self) -> bool:
        """Whether they wait for something; False also where none is known yet."""
        return self.seconds < math.inf and not self.computes

    @property
    def quick(self) -> bool:
        """Whether they compute, and not for long; False also where none is known yet."""
        return self.computes and self.cpu_seconds < QUICK_S

    def add(self, seconds: float, cpu_seconds: float) -> None:
        """Count one more."""
        if self.seconds == math.inf:
            self.seconds, self.cpu_seconds = seconds, cpu_seconds
        self.seconds += SMOOTHING * (min(seconds, OUTLIER * self.seconds) - self.seconds)
        self.cpu_seconds += SMOOTHING * (cpu_seconds - self.cpu_seconds)


class _Lane:
    """Calls that queue for the same threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.threads = 0
        self.open = 0  # calls that are queued or run
        self.moved = 0.0  # when it last began a call, or got one while it had none
        self.queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()


class EnvironmentThreads:
    """A pool of threads with queues of calls: for calls that are quick, that compute, and that wait for something.

    The first has one thread; what queues there behind a call that turns out to be slow moves on. The second has at most
    `COMPUTING_THREADS`. The third gets a thread for each call that waits, so that none waits for another, up to the
    number given. A call is of the kind that the earlier ones of its name were.

    A thread whose call takes too long is left behind and another takes its place, so that calls queued behind it go on.
    The threads are daemons: one that hangs for ever does not keep the process from ending.

    Args:
        threads: most threads, besides the one for quick calls.
        timeout_s: longest a call may run; past it the call counts as `timed_out`.
    """

    def __init__(self, threads: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._quick = _Lane(1)
        self._narrow = _Lane(min(threads, COMPUTING_THREADS))
        self._wide = _Lane(threads - self._narrow.most)
        self._usual: dict[str, _Usual] = {}
        self._calls: dict[int, _Call] = {}  # those whose outcome nobody has yet
        self._finished: deque[_Call] = deque()
        self._lock = threading.Lock()  # decides whether a call was over or abandoned first
        self._wake = threading.Event()
        self._wake_at_each = False  # else when the last one is over: each wake-up costs a change of threads
        self._wait_for_waiting = False  # whether the last one is one of all, or of those that compute
        self._computing = 0  # calls of that kind that are not over
        self._numbers = itertools.count()
        self._logged: set[str] = set()
        for _ in range(self._narrow.most):
            self._add_thread(self._narrow)

    def start(self, owner: Any, call: Callable[[], Any], kind: str = "") -> None:
        """Queue `call`; its `Outcome` names `owner`. Calls of one `kind` are expected to be alike."""
        usual = self._usual.setdefault(kind, _Usual(self._narrow.most))
        entry = _Call(next(self._numbers), owner, call, usual, self._narrow)
        self._calls[entry.number] = entry
        with self._lock:
            self._computing += entry.computes
            self._put(entry, self._quick if usual.quick else self._patient(usual))

    def drop(self, owner: Any) -> None:
        """Drop the call of an owner, if it has one; a thread that runs it is left behind."""
        for entry in [entry for entry in self._calls.values() if entry.owner is owner]:
            self._abandon(entry)
            del self._calls[entry.number]

    def collect(self, *, patience_s: float, wait_for_one: bool, deadline: float = math.inf) -> list[Outcome]:
        """Outcomes of the calls that are over, in the order in which the calls were started.

        Args:
            patience_s: wait, at most this long, for the calls that compute (rather than wait for something), if they
                will have done so by then: this process has to do that work in any case. `inf`: wait for every call
                whatever it does; 0: for none.
            wait_for_one: wait, however long, until at least one is over.
            deadline: time (`time.monotonic`) after which nothing is waited for, whatever is still under way.

        Raises:
            ConfigError: a call raised it.
        """
        outcomes: list[Outcome] = []
        begun = time.monotonic()
        self._wait_for_waiting = patience_s == math.inf
        usual_cpu_s = max((usual.cpu_seconds for usual in self._usual.values() if usual.computes), default=0.0)
        needed_s = self._computing * usual_cpu_s
        wait_for_all = self._wait_for_waiting or (0 < needed_s <= patience_s)
        if not self._wait_for_waiting:  # what takes much longer waits for something, whatever those before it did
            patience_s = min(patience_s, PATIENCE_FACTOR * needed_s + POLL_S)
        while True:
            self._wake.clear()
            outcomes += self._over() + self._overdue()
            now = time.monotonic()
            if self._quick.open and now - self._quick.moved > HELD_UP_S:
                self._requeue(self._quick)
            wait_for_all = wait_for_all and now - begun < patience_s
            wait_for_all = wait_for_all and (self._wait_for_waiting or self._computing > 0)
            enough = not self._calls or not (wait_for_all or (wait_for_one and not outcomes))
            if enough or now >= deadline:
                return sorted(outcomes, key=lambda outcome: outcome.number)
            self._wake_at_each = not wait_for_all
            if not self._finished:  # else one ended before it could know that it is to wake
                poll_s = HELD_UP_S if self._quick.open else POLL_S
                self._wake.wait(min(poll_s, begun + patience_s - now) if wait_for_all else poll_s)

    def forget(self) -> None:
        """Drop all calls; threads that still run one are left behind."""
        for entry in self._calls.values():
            self._abandon(entry)
        self._calls.clear()
        self._finished.clear()

    def close(self) -> None:
        """Drop all calls and end the threads; does not wait for those that hang."""
        self.forget()
        for lane in (self._quick, self._narrow, self._wide):
            for _ in range(lane.threads):
                lane.queue.put(None)

    def _over(self) -> list[Outcome]:
        over = []
        while self._finished:
            entry = self._finished.popleft()
            if self._calls.pop(entry.number, None) is None:
                continue
            entry.usual.add(entry.seconds, entry.cpu_seconds)
            over.append(entry)
            if entry.error is not None:
                self._log_once(entry.error)
        if self._wide.most:
            for lane in {entry.lane for entry in over if entry.usual.waits} - {self._wide}:
                self._requeue(lane)
        return [entry.outcome() for entry in over]

    def _log_once(self, error: BaseException) -> None:
        """Log what an environment raised, with its traceback, the first time that it comes from this line."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{type(error).__name__} {place.filename} {place.lineno}"
        if isinstance(error, EnvironmentFailure):
            key = error.place or error.message
        if key not in self._logged and len(self._logged) < MOST_LOGGED:
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

    def _patient(self, usual: _Usual) -> _Lane:
        """Where calls may take long without holding many others up."""
        return self._wide if usual.waits and self._wide.most else self._narrow

    def _requeue(self, lane: _Lane) -> None:
        """Let the calls that queue in `lane`, behind one that holds them up, queue where they had better be."""
        queued: list[_Call | None] = []
        with self._lock:
            with contextlib.suppress(queue.Empty):
                while True:
                    queued.append(lane.queue.get_nowait())
            for entry in queued:
                if entry is None or entry.abandoned:
                    continue
                lane.open -= 1
                self._put(entry, self._patient(entry.usual))

    def _put(self, entry: _Call, lane: _Lane) -> None:
        """Queue a call; the lock is held."""
        entry.lane = lane
        lane.open += 1
        if lane.open == 1:
            lane.moved = time.monotonic()
        if lane.threads < min(lane.open, lane.most):
            self._add_thread(lane)
        lane.queue.put(entry)

    def _abandon(self, entry: _Call) -> bool:
        """Give up a call, and its thread if it has one; False when it is over already."""
        with self._lock:
            if entry.over:
                return False
            entry.abandoned = True
            self._leave(entry)
            if entry.started is not None:
                entry.lane.threads -= 1
                self._add_thread(entry.lane)
            return True

    def _leave(self, entry: _Call) -> None:
        """Count a call as over; the lock is held."""
        entry.lane.open -= 1
        self._computing -= entry.computes

    def _add_thread(self, lane: _Lane) -> None:
        lane.threads += 1
        threading.Thread(target=self._work, args=(lane,), name="environment", daemon=True).start()

    def _work(self, lane: _Lane) -> None:
        """Make calls until told to end, or until left behind."""
        while (entry := lane.queue.get()) is not None:
            with self._lock:
                if entry.abandoned:
                    continue
                entry.started = lane.moved = time.monotonic()
            cpu_before = time.thread_time()
            entry.run()
            entry.cpu_seconds = time.thread_time() - cpu_before
            entry.seconds = time.monotonic() - entry.started
            with self._lock:
                if entry.abandoned:
                    return
                entry.over = True
                self._leave(entry)
                self._finished.append(entry)
                last = not self._calls_left() if self._wait_for_waiting else self._computing == 0
                if self._wake_at_each or last:
                    self._wake.set()

    def _calls_left(self) -> int:
        """Calls that are not over."""
        return self._quick.open + self._narrow.open + self._wide.open
