"""One way to call the parts of a run, whether they are Ray actors or objects of this process.

A `Member` is one rollout worker, one learner rank or the rejuvenation worker. Calls to it are started with `start`,
which returns a `Pending`; its `result` waits a bounded time and says what it was waiting for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from configs.errors import ConfigError


class MemberFailed(RuntimeError):
    """A member raised, died, or did not answer in time. The message says which one, at what, and why."""


class Pending(Protocol):
    """A call under way."""

    def result(self, timeout_s: float) -> Any:
        """Wait for the call's value.

        Raises:
            MemberFailed: no answer within `timeout_s`, or the member failed.
        """
        ...


class Member(Protocol):
    """A part of the run that can be called."""

    name: str

    def start(self, method: str, *args: Any, **kwargs: Any) -> Pending:
        """Start `method` and return at once (inline: after it has run)."""
        ...


class InlinePending:
    """A call of an object in this process; it ran when it was started."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self, timeout_s: float) -> Any:
        """The value; there is nothing to wait for."""
        return self._value


class InlineMember:
    """An object of this process, so that breakpoints work."""

    def __init__(self, name: str, target: object) -> None:
        self.name = name
        self.target = target

    def start(self, method: str, *args: Any, **kwargs: Any) -> InlinePending:
        """Call `method` now; what it raises reaches the caller unchanged."""
        return InlinePending(getattr(self.target, method)(*args, **kwargs))


class RayPending:
    """A call of a Ray actor."""

    def __init__(self, name: str, what: str, reference: Any) -> None:
        self._name = name
        self._what = what
        self.reference = reference

    def result(self, timeout_s: float) -> Any:
        """Wait for the value; see `Pending.result`."""
        import ray

        try:
            return ray.get(self.reference, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise MemberFailed(f"{self._name} did not finish {self._what} within {timeout_s:.0f} s") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ConfigError):  # the user's to fix: there is no more to say
                raise error.cause from None
            raise MemberFailed(f"{self._name} failed in {self._what}: {error.cause}\n{error}") from error
        except ray.exceptions.RayActorError as error:
            raise MemberFailed(f"{self._name} died during {self._what}; see its log. {error}") from error
        except ray.exceptions.RayError as error:  # an object was lost, a node ran out of memory, ...
            raise MemberFailed(f"{self._name} failed in {self._what}: {error}") from error


class RayMember:
    """A Ray actor."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self.actor = actor

    def start(self, method: str, *args: Any, **kwargs: Any) -> RayPending:
        """Start the remote call; the actor's shell forwards it to its target."""
        return RayPending(self.name, method, self.actor.call.remote(method, args, kwargs))


def call_all(members: Sequence[Member], method: str, *args: Any, timeout_s: float, **kwargs: Any) -> list[Any]:
    """Call `method` on all members at once and wait for all, `timeout_s` seconds in all.

    Raises:
        MemberFailed: names the first member that failed or was late.
    """
    return gather([member.start(method, *args, **kwargs) for member in members], timeout_s)


def gather(pending: Sequence[Pending], timeout_s: float, clock: Callable[[], float] = time.monotonic) -> list[Any]:
    """Wait for all calls under one deadline.

    Whichever fails first is raised at once: the others may be waiting for it in a collective operation.
    """
    deadline = clock() + timeout_s
    results: dict[int, Any] = {}
    waiting = dict(enumerate(pending))
    while waiting:
        for number in first_over(waiting, max(0.001, deadline - clock())):
            results[number] = waiting.pop(number).result(max(0.001, deadline - clock()))
    return [results[number] for number in range(len(pending))]


def first_over(waiting: Mapping[int, Pending], timeout_s: float) -> list[int]:
    """Numbers of calls that are over; where none is in time, the first, whose `result` says so."""
    remote = {call.reference: number for number, call in waiting.items() if isinstance(call, RayPending)}
    if len(remote) < len(waiting):  # calls of this process: one after the other
        return [min(number for number, call in waiting.items() if not isinstance(call, RayPending))]
    import ray

    over, _ = ray.wait(list(remote), num_returns=1, timeout=timeout_s)
    return [remote[reference] for reference in over] or [min(waiting)]
