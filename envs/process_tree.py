"""A process and all that came of it: finding, measuring and killing them. Reads /proc and needs no library.

As a program (`guarded`) it runs a command that nothing outlives.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Container
from pathlib import Path
from typing import NoReturn

GRACE_S = 1.0
"""Time that a guarded command gets after SIGTERM, before it is killed."""
LOOK_S = 0.5
"""How often a guard looks whether whoever wants the command is still there."""
PATIENCE_S = 5.0
"""Longest that killing a tree goes on; only processes that the kernel itself holds take longer than milliseconds."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def descendants(process: int, without: Container[int] = ()) -> list[int]:
    """Return the ids of all processes below one, parents first; those that ended and nobody has waited for count.

    Args:
        process: where to begin.
        without: processes that are passed over, with all below them.
    """
    found = [process]
    for parent in found:
        for listed in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                found += [int(child) for child in listed.read_text().split() if int(child) not in without]
    return found[1:]


def memory_of(process: int) -> int:
    """Return the resident memory in bytes of all processes below one; pages that two share are counted twice."""
    total = 0
    for child in descendants(process):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{child}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def adopt_orphans() -> None:
    """Become the parent of all processes below this one whose own parent ends, so that none leaves the tree."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which forked it, ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it had ended before
        os._exit(1)


def kill_below(keep: Container[int] = ()) -> None:
    """Kill everything below this process but the children in `keep` and what is below them.

    All are stopped first, as one that is stopped forks no more. This process must be the one that adopts orphans.
    """
    stopped: set[int] = set()
    deadline = time.monotonic() + PATIENCE_S
    while tree := [pid for pid in descendants(os.getpid(), keep) if _alive(pid)]:
        late = time.monotonic() > deadline
        last = late or stopped.issuperset(tree)
        for pid in tree:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if last else signal.SIGSTOP)
        stopped.update(tree)
        if late:
            return
        if last:
            reap()
            time.sleep(0.001)


def reap() -> dict[int, int]:
    """Return the exit codes, by process, of children that ended; minus the signal's number where one ended them."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def _alive(process: int) -> bool:
    """Whether a process still is there and has not ended."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def guarded(command: list[str]) -> list[str]:
    """Return a command line that runs `command` below a guard; this process must start it.

    The guard passes stdin, stdout and stderr on. It kills the command, and all that came of it, daemons too, as soon as
    the command ends by itself, SIGTERM is sent to the guard, or this process is gone, `kill -9` included.
    """
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(os.getpid()), *command]


def guard(parent: int, command: list[str]) -> int:
    """Run a command as `guarded` says; return its exit code, or 128 and the number of the signal that ended it."""
    signals = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # they are waited for
    adopt_orphans()
    me = os.getpid()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        die_with_parent(me)
        _become(command)
    for fd in range(3):  # whoever reads what the command writes is to see its end
        os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    deadline = None
    while deadline is None or time.monotonic() < deadline:
        got = signal.sigtimedwait(signals, LOOK_S if deadline is None else max(0.0, deadline - time.monotonic()))
        if (code := reap().get(child)) is not None:
            break
        if deadline is None and (os.getppid() != parent or (got is not None and got.si_signo == signal.SIGTERM)):
            deadline = time.monotonic() + GRACE_S
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGTERM)
    kill_below()
    return 128 + signal.SIGKILL if code is None else code if code >= 0 else 128 - code


def _become(command: list[str]) -> NoReturn:
    """Turn a freshly forked process into a command, in a session of its own."""
    try:
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[2:]))
