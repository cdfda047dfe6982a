"""The sandbox's first process: takes the code from stdin, limits it, starts it, and ends everything when it ends.

It is PID 1 of a PID namespace: signals from inside do not reach it, and when it ends, the kernel kills all others.
Stdin stays open while the host's process lives; its end ends the sandbox. Imports the standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import sys
from typing import Any, NoReturn

_PR_SET_DUMPABLE = 4


def main() -> None:
    """Run the code that stdin brings, as the plan in the first argument says."""
    plan = json.loads(sys.argv[1])
    # nobody inside may look into this process, which holds the descriptor that the result is reported on
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    file = os.path.join(plan["folder"], "main.py")
    with open(file, "wb") as code:
        code.write(_read(plan["code_bytes"]))
    child = os.fork()
    if child == 0:
        _start(plan, file)
    report = json.dumps(_wait(child)).encode()
    os.write(plan["report_fd"], report)


def _read(size: int) -> bytes:
    """Return the next `size` bytes of stdin; end where the host has gone away."""
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit("the host went away")
        data += piece
    return data


def _wait(child: int) -> dict[str, Any]:
    """Wait for the code's first process, or for the end of the host's; collect what others leave behind."""
    handle = os.pidfd_open(child)
    while True:
        if 0 in select.select([0, handle], [], [], 0.2)[0]:
            os._exit(1)
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                return {"exit_code": os.waitstatus_to_exitcode(ended[1])}


def _start(plan: dict[str, Any], file: str) -> NoReturn:
    """Become the code: without stdin, behind the limits and the filter."""
    try:
        os.set_inheritable(plan["report_fd"], False)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(plan["folder"])
        for name, limit in plan["limits"].items():
            resource.setrlimit(getattr(resource, name), (limit, limit))
        if plan["closed"]:
            os.setsid()
            from call_filter import close_calls

            close_calls()
        os.execve(plan["python"], [plan["python"], "-s", "-B", "-u", file], plan["environment"])
    except BaseException as error:
        os.write(plan["report_fd"], json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
    os._exit(1)


if __name__ == "__main__":
    main()
