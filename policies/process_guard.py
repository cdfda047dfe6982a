"""Run a command, and end it with all that it started as soon as it, or the process that wanted it, is gone.

`python process_guard.py PARENT_PID COMMAND ...`, started by that parent as the leader of a new session. However the
parent ends, `kill -9` included, the guard sees that it has another parent. A server that is killed itself leaves its
workers behind, which hold memory and GPUs: they are in the guard's process group and go with it.
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
    """Wait for the first of the two to end, then end the group, this process included."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    child = subprocess.Popen(command)
    while child.poll() is None and os.getppid() == parent and not asked:
        time.sleep(POLL_S)
    if child.poll() is None:
        os.killpg(0, signal.SIGTERM)  # this process has a handler
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            print(f"the server did not end within {GRACE_S:g} s and is killed", file=sys.stderr, flush=True)
    else:
        print(f"the server ended with status {child.returncode}", file=sys.stderr, flush=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
