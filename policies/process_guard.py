"""Run a command, and end it with all that it started as soon as it, or the process that wanted it, is gone.

`python process_guard.py PARENT_PID COMMAND ...`, started by that parent as the leader of a new session. However the
parent ends, `kill -9` included, the guard sees that it has another parent. A server that is killed itself leaves its
workers behind, which hold memory and GPUs: they are in the guard's process group and go with it.

There are two of it, one below the other. Ray kills the children of an actor that dies before they can notice, and then
it is the second that ends the group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

POLL_S = 0.2
GRACE_S = 5.0
"""Time to end in order, before everything is killed."""


def main(parent: int, command: list[str]) -> None:
    """Guard a second guard, which runs the command."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    first = os.getpid()
    second = os.fork()
    if second:
        guard(second, parent, asked)
    server = subprocess.Popen(command).pid
    guard(server, first, [])  # where the first one is asked to end, the server is, too


def guard(child: int, parent: int, asked: list[int]) -> None:
    """Wait until the child has ended, the parent is gone or a SIGTERM came; then end the group, this process included.

    Args:
        child: id of the process that is guarded, a child of this one.
        parent: id of the process that wants it.
        asked: filled by the handler of SIGTERM.
    """
    while (status := status_of(child)) is None and os.getppid() == parent and not asked:
        time.sleep(POLL_S)
    if status is None:
        os.killpg(0, signal.SIGTERM)  # the guards have a handler
        deadline = time.monotonic() + GRACE_S
        while status_of(child) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
    else:
        print(f"process {child} ended with status {status}", file=sys.stderr, flush=True)
    os.killpg(0, signal.SIGKILL)


def status_of(child: int) -> int | None:
    """Return the exit status of a child, or the signal that killed it; None while it runs. It is not reaped here."""
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    return None if ended is None else ended.si_status


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
