"""Whether processes are gone, for tests of what must not outlive something."""

from __future__ import annotations

import time

import psutil


def ended(processes, patience_s=10.0):
    """Those of these processes that still run, after a little patience."""
    deadline = time.monotonic() + patience_s
    while alive := [pid for pid in processes if psutil.pid_exists(pid) and not is_zombie(pid)]:
        if time.monotonic() > deadline:
            return alive
        time.sleep(0.02)
    return []


def is_zombie(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
