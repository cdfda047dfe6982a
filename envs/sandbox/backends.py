"""The ways to close a sandbox, as command lines, and the proof that one of them is closed on this machine."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from envs.sandbox import interpreter
from envs.sandbox.settings import SandboxConfig

_INSIDE_FOLDER = "/tmp"

PROOF = """
import os, socket, time
assert os.getuid() == os.geteuid() == 65534, "the code is not nobody"
seen = sorted(os.listdir("/"))
assert set(seen) <= {"python", "lib", "lib64", "usr", "dev", "tmp"}, f"it sees {seen}"
for path in ("/x", "/python/x", "/dev/x"):
    try:
        open(path, "w")
    except OSError:
        continue
    raise AssertionError(f"it can write {path}")
try:
    socket.socket(socket.AF_INET)
    raise AssertionError("it has sockets")
except PermissionError:
    pass
try:
    for number in range(64):
        if os.fork() == 0:
            time.sleep(60)
    raise AssertionError("its processes are not limited")
except BlockingIOError:
    print("closed", end="")
"""
"""Code that prints `closed` in a closed sandbox of few processes, and says what is open in any other."""


def command(backend: str, config: SandboxConfig, code_bytes: int, report_fd: int, folder: str) -> list[str]:
    """Return the command that starts the sandbox's first process.

    Args:
        backend: `bubblewrap`, `namespaces`, or `open`: none.
        config: the limits.
        code_bytes: length of the code that will come over stdin.
        report_fd: descriptor, inherited, on which the first process reports how the code ended.
        folder: where the code runs without isolation.

    Raises:
        FileNotFoundError: the backend's program is not installed.
    """
    given = {"code_bytes": code_bytes, "report_fd": report_fd}
    if backend == "open":
        plan = _plan(config, folder, helpers=0, python=sys.executable) | given
        return [sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("inside.py")), json.dumps(plan)]
    # processes of the sandbox itself that the kernel counts as the code's
    helpers = 2 if backend == "namespaces" and os.geteuid() else 1
    plan = _plan(config, _INSIDE_FOLDER, helpers, interpreter.PROGRAM) | given
    first = [interpreter.PROGRAM, "-s", "-E", "-S", "-B", interpreter.STARTER, json.dumps(plan)]
    return _bubblewrap(config, first) if backend == "bubblewrap" else _namespaces(config, first)


def _plan(config: SandboxConfig, folder: str, helpers: int, python: str) -> dict[str, Any]:
    """Return what `inside.py` is told."""
    closed = folder == _INSIDE_FOLDER
    limits = {
        "RLIMIT_AS": config.memory_bytes,
        "RLIMIT_CPU": config.cpu_s,
        "RLIMIT_FSIZE": config.scratch_bytes,
        "RLIMIT_NOFILE": 128,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_SIGPENDING": 128,
    }
    if closed:  # without a user namespace all processes of the user count
        limits["RLIMIT_NPROC"] = config.max_processes + helpers
    environment = dict(interpreter.ENVIRONMENT) if closed else {"HOME": folder, "TMPDIR": folder, "PYTHONUTF8": "1"}
    return {
        "closed": closed,
        "environment": environment,
        "folder": folder,
        "limits": limits,
        "python": python,
    }


def _namespaces(config: SandboxConfig, first: list[str]) -> list[str]:
    """Return the command of this project's own backend."""
    view = interpreter.view()
    plan = {
        "binds": view.binds,
        "hidden": view.hidden,
        "devices": interpreter.DEVICES,
        "scratch_bytes": config.scratch_bytes,
        "scratch_files": _scratch_files(config),
        "command": first,
        "environment": interpreter.ENVIRONMENT,
    }
    return [sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("enter.py")), json.dumps(plan)]


def _scratch_files(config: SandboxConfig) -> int:
    """Return how many files the scratch folder may hold: one per 4 KiB, so that empty ones take no memory of note."""
    return config.scratch_bytes // 4096


def _bubblewrap(config: SandboxConfig, first: list[str]) -> list[str]:
    """Return bubblewrap's command: the same place, made by an older hand."""
    program = shutil.which("bwrap")
    if program is None:
        raise FileNotFoundError("bwrap is not installed")
    view = interpreter.view()
    options = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1"]
    options += ["--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--clearenv"]
    for name, value in interpreter.ENVIRONMENT.items():
        options += ["--setenv", name, value]
    for source, target in view.binds:
        options += ["--ro-bind", source, target]
    for device in interpreter.DEVICES:
        options += ["--dev-bind", device, device]
    for folder in view.hidden:
        options += ["--tmpfs", folder, "--remount-ro", folder]
    options += ["--perms", "1777", "--size", str(config.scratch_bytes), "--tmpfs", _INSIDE_FOLDER]
    options += ["--symlink", _INSIDE_FOLDER, "/dev/shm", "--remount-ro", "/", "--chdir", _INSIDE_FOLDER]
    return [program, *options, "--", *first]
