"""The parent of one environment's process: sees to its end, whoever brings it about, and that nothing outlives it.

All processes that the environment starts stay below the supervisor, daemons too: it is their reaper. It ends them when
the environment's process ends, takes too much memory, is to be killed, or when whoever wanted it is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import NoReturn

from envs.process_tree import adopt_orphans, kill_below, memory_of, reap
from envs.processes.serving import become_environment

LOOK_S = 0.5
"""How often memory is measured; in between the limit holds for what each single process does not share."""


def supervise(control: socket.socket, conversation: socket.socket, memory_bytes: int) -> NoReturn:
    """Turn a freshly forked process into the supervisor of a new environment's process.

    Args:
        control: its closing (in one direction is enough) is the order to kill; why all ended is told on it.
        conversation: what the environment's process talks on.
        memory_bytes: most memory of the environment's processes.
    """
    try:
        server, me = os.getppid(), os.getpid()
        adopt_orphans()
        try:
            child = os.fork()
        except OSError as error:
            reason = f"could not be started: {error}"
        else:
            if child == 0:
                control.close()
                become_environment(conversation, memory_bytes, me)
            conversation.close()
            reason = _watch(control, child, server, memory_bytes)
        kill_below()
        with contextlib.suppress(OSError):  # nobody may be there any more
            control.send(json.dumps(reason).encode())
    finally:
        os._exit(0)


def _watch(control: socket.socket, child: int, server: int, memory_bytes: int) -> str:
    """Wait for the end, and return why it came, as the rest of a sentence about the environment's process."""
    handle = os.pidfd_open(child)
    looked = time.monotonic()
    while True:
        ready = select.select([control.fileno(), handle], [], [], LOOK_S)[0]
        ended = reap()
        if child in ended:
            return _in_words(ended[child])
        if control.fileno() in ready or os.getppid() != server:
            return "was killed"
        if time.monotonic() - looked >= LOOK_S:
            looked = time.monotonic()
            if memory_of(os.getpid()) > memory_bytes:
                return f"used more than environment.memory_bytes = {memory_bytes:,} of memory and was killed"


def _in_words(exit_code: int) -> str:
    """Return how a process ended by itself."""
    if exit_code >= 0:
        return f"ended itself with exit code {exit_code}"
    with contextlib.suppress(ValueError):
        return f"was ended by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return f"was ended by signal {-exit_code}"
