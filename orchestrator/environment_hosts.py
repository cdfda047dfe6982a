"""Processes for environments that Ray actors keep, on this node or another one: a host, and how a worker calls it.

The environment does not run in the actor. An actor's process belongs to the cluster: it can call every other actor, and
whoever calls it unpickles what it answers. So the actor keeps processes (`envs.processes`) that know nothing of Ray,
talks JSON with them, and kills them; Ray places it, counts its cores, and starts it anew where it or its node dies.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from configs.errors import ConfigError
from envs.processes import EnvironmentFailure, EnvironmentProcess, ForkServer
from envs.processes.fork_server import START_S
from envs.processes.process import CLOSE_S, END_S
from envs.user_model import KEY_VARIABLE, URL_VARIABLE

GRACE_S = 30.0
"""What a call through Ray may take beyond the environment's own limit, which the host keeps."""

Answer = tuple[Any, ...]
"""What a host answers: `("value", value)`, or the name of an error and its arguments."""


class EnvironmentHost:
    """Keeps processes by name; constructible without Ray. Called from several threads at once."""

    def __init__(self) -> None:
        self._server = ForkServer()
        self._processes: dict[str, EnvironmentProcess] = {}
        self._names = (f"{secrets.token_hex(4)}-{number}" for number in itertools.count())
        self._lock = threading.Lock()

    def begin(self, variables: Mapping[str, str]) -> None:
        """Get ready, so that the first process starts quickly; see `start`."""
        os.environ.update(variables)
        self._server.begin()

    def start(self, memory_bytes: int, variables: Mapping[str, str]) -> Answer:
        """Start a process; the value is its name.

        Args:
            memory_bytes: most that it may use.
            variables: of the environment, which a host that was started anew has not been told.
        """
        os.environ.update(variables)
        return answer(lambda: self._keep(self._server.start(memory_bytes)))

    def call_environment(self, name: str, method: str, arguments: dict[str, Any], timeout_s: float) -> Answer:
        """Call the environment in a process."""
        return answer(lambda: self._process(name).call(method, arguments, timeout_s))

    def memory_bytes(self, name: str) -> Answer:
        """Memory of a process and all below it."""
        return answer(lambda: self._process(name).memory_bytes())

    def end(self, name: str, timeout_s: float) -> None:
        """Close a process, if there is one of this name."""
        with self._lock:
            process = self._processes.pop(name, None)
        if process is not None:
            process.close(timeout_s)

    def close(self) -> None:
        """Kill everything."""
        self._server.close()

    def _keep(self, process: EnvironmentProcess) -> str:
        with self._lock:
            name = next(self._names)
            self._processes[name] = process
        return name

    def _process(self, name: str) -> EnvironmentProcess:
        process = self._processes.get(name)
        if process is None:
            raise EnvironmentFailure("environment_error", "the environment's process is gone: its host was restarted")
        return process


def answer(action: Callable[[], Any]) -> Answer:
    """Do something, and return what came of it as plain data."""
    try:
        return "value", action()
    except EnvironmentFailure as error:
        return "failure", *error.args, getattr(error, "__notes__", [])
    except ConfigError as error:
        return "config", *error.args
    except TimeoutError:
        return ("late",)


def value_of(found: Answer) -> Any:
    """Return the value in a host's answer, or raise what it tells of."""
    match found:
        case "value", value:
            return value
        case "failure", *arguments, notes:
            failure = EnvironmentFailure(*arguments)
            for note in notes:
                failure.add_note(note)
            raise failure
        case "config", *arguments:
            raise ConfigError(*arguments)
    raise TimeoutError


class HostedProcesses:
    """The processes of several hosts, for one rollout worker.

    Args:
        hosts: handles of `EnvironmentActor`.
    """

    def __init__(self, hosts: Sequence[Any]) -> None:
        self._hosts = list(hosts)
        self._open = [0] * len(self._hosts)
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Have all hosts get ready; one that cannot, says so when it is to start a process."""
        import ray

        ready = [host.call.remote("begin", (told_variables(),), {}) for host in self._hosts]
        ray.wait(ready, num_returns=len(ready), timeout=START_S)

    def start(self, memory_bytes: int) -> HostedProcess:
        """Start a process on the host with the fewest; where that one fails, on the next."""
        order = sorted(range(len(self._hosts)), key=lambda number: self._open[number])
        for attempt, number in enumerate(order, 1):
            try:
                name = value_of(ask(self._hosts[number], "start", memory_bytes, told_variables(), timeout_s=START_S))
            except EnvironmentFailure:
                if attempt == len(order):
                    raise
                continue
            self._count(number, 1)
            return HostedProcess(self._hosts[number], name, functools.partial(self._count, number, -1))
        raise AssertionError("there is a host at least")

    def close(self) -> None:
        """Nothing: hosts are ended by whoever launched them."""

    def _count(self, number: int, change: int) -> None:
        with self._lock:
            self._open[number] += change


class HostedProcess:
    """A process that a host keeps; see `envs.processes.Process`.

    Args:
        host: handle of the host.
        name: of the process.
        ended: called once, when it is closed.
    """

    def __init__(self, host: Any, name: str, ended: Callable[[], None]) -> None:
        self._host = host
        self._name = name
        self._ended: Callable[[], None] | None = ended

    def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Call the environment."""
        limit_s = timeout_s + GRACE_S
        return value_of(
            ask(self._host, "call_environment", self._name, method, arguments, timeout_s, timeout_s=limit_s)
        )

    def memory_bytes(self) -> int:
        """Memory of the environment's processes."""
        return value_of(ask(self._host, "memory_bytes", self._name, timeout_s=GRACE_S))

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """End it."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        try:
            ask(self._host, "end", self._name, timeout_s, timeout_s=timeout_s + END_S + GRACE_S)
        except EnvironmentFailure:
            pass  # with its host it is gone, too
        finally:
            ended()


def told_variables() -> dict[str, str]:
    """Where the run's user model answers, as this process was told; empty without one."""
    return {name: os.environ[name] for name in (URL_VARIABLE, KEY_VARIABLE) if name in os.environ}


def ask(host: Any, method: str, *arguments: Any, timeout_s: float) -> Any:
    """Call a host.

    Raises:
        EnvironmentFailure: it died, or did not answer.
    """
    import ray

    try:
        return ray.get(host.call.remote(method, arguments, {}), timeout=timeout_s)
    except ray.exceptions.RayError as error:
        reason = "did not answer" if isinstance(error, ray.exceptions.GetTimeoutError) else "died"
        message = f"the host of the environment's process {reason} during {method} ({type(error).__name__})"
        raise EnvironmentFailure("environment_error", message, place=message) from error
