"""A small process that forks supervisors: forking is quick, and safe there, as it has one thread and no engine.

The class `ForkServer` is this side; `main` is the program. It has imported what every environment needs, and nothing of
any environment's own, so that forked processes share that memory and none sees another's state.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading

from envs.process_tree import adopt_orphans, descendants, kill_below, reap
from envs.processes.process import END_S, EnvironmentFailure, EnvironmentProcess
from envs.processes.supervisor import supervise

START_S = 120.0
"""Longest that the fork server may take to start, or to fork."""
LOOK_S = 0.2
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from envs.processes.fork_server import main
main()
"""


class ForkServer:
    """Starts environments' processes; one that was killed is started anew at the next call.

    May be used from many threads. Its process and all that it forked end with this one, however this one ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # two per environment
        most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

    def begin(self) -> None:
        """Start the server, if it does not run, so that no call that has a time limit waits for it."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()

    def start(self, memory_bytes: int) -> EnvironmentProcess:
        """Start a process for an environment.

        Raises:
            EnvironmentFailure: the server cannot be started, or cannot fork.
        """
        control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        conversation, their_conversation = socket.socketpair()
        with self._lock, their_control, their_conversation:
            order = json.dumps({"start": {"memory_bytes": memory_bytes}}).encode()
            for attempt in (1, 2):  # it may have been killed since the last time
                try:
                    if self._process is None or self._process.poll() is not None:
                        self._start()
                    assert self._control is not None
                    handed = [their_control.fileno(), their_conversation.fileno()]
                    socket.send_fds(self._control, [order], handed)
                    answer = json.loads(self._answer())
                    break
                except OSError as error:
                    self._stop()
                    if attempt == 2:
                        message = f"no process can be started for an environment: {error}"
                        raise EnvironmentFailure("environment_error", message) from error
        if "error" in answer:
            control.close()
            conversation.close()
            message = f"no process can be started for an environment: {answer['error']}"
            raise EnvironmentFailure("environment_error", message)
        supervisor = answer["pid"]
        return EnvironmentProcess(supervisor, control, conversation, functools.partial(self._kill, supervisor))

    def close(self) -> None:
        """End the server and everything that it forked."""
        with self._lock:
            self._stop()

    def _kill(self, supervisor: int) -> None:
        """Have the server kill a supervisor that does not end; it alone knows whose process id that still is."""
        with self._lock, contextlib.suppress(OSError):
            if self._control is not None:
                self._control.send(json.dumps({"kill": supervisor}).encode())

    def _start(self) -> None:
        self._stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        single = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **single},
                start_new_session=True,  # Ctrl-C is this process's business, which then ends all of them
            )
        self._control = ours
        ours.settimeout(START_S)
        self._answer()

    def _answer(self) -> bytes:
        """Return the server's next message; `OSError` where it does not come."""
        assert self._control is not None
        if not (answer := self._control.recv(4096)):
            raise ConnectionResetError("the fork server ended; what it printed says why")
        return answer

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process = self._control = None


def main() -> None:
    """Fork supervisors on request, until the process that started this one ends or hangs up."""
    control, starter = socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3])
    adopt_orphans()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.collect()
    gc.freeze()  # else the first collection of every forked process would copy what they share
    control.send(b"ready")
    supervisors: set[int] = set()
    while os.getppid() == starter:
        ready = select.select([control], [], [], LOOK_S)[0]
        supervisors.difference_update(reap())
        # what comes here from further below has lost its supervisor, which somebody killed
        if descendants(os.getpid(), without=supervisors):
            kill_below(keep=supervisors)
        if not ready:
            continue
        message, handed, _, _ = socket.recv_fds(control, 4096, 2)
        if not message:
            break
        order = json.loads(message)
        if order.get("kill") in supervisors:  # what is below it comes here, and is killed above
            os.kill(order["kill"], signal.SIGKILL)
        if "start" in order:
            answer = _fork(control, handed, order["start"])
            if isinstance(supervisor := answer.get("pid"), int):
                supervisors.add(supervisor)
            control.send(json.dumps(answer).encode())
    kill_below()


def _fork(control: socket.socket, handed: list[int], limits: dict[str, int]) -> dict[str, int | str]:
    """Fork a supervisor; return its process id, or the error where the machine has no room for another process."""
    sockets = [socket.socket(fileno=fd) for fd in handed]
    try:
        if len(sockets) < 2:
            return {"error": "the fork server may open no more files"}
        try:
            supervisor = os.fork()
        except OSError as error:
            return {"error": str(error)}
        if supervisor == 0:
            control.close()
            supervise(sockets[0], sockets[1], **limits)
        return {"pid": supervisor}
    finally:
        for one in sockets:
            one.close()
