"""Running code in a sandbox: starts it, reads what it writes up to a bound, kills all of it at the first limit."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from typing import Literal

from configs.errors import ConfigError
from envs.process_tree import memory_of
from envs.sandbox.backends import PROOF, command
from envs.sandbox.settings import BACKENDS, SECTION, SandboxConfig

Status = Literal["finished", "failed", "time", "memory", "output"]
_LOOK_S = 0.05
_DRAIN_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    Args:
        status: `finished` (exit code 0), `failed` (any other), or the limit at which it was stopped.
        stdout: what it printed, at most `max_output_bytes`; bytes that are no UTF-8 are replaced.
        stderr: the same of stderr, a traceback say.
        exit_code: of the first process, minus the signal's number where one ended it; None: stopped at a limit.
        seconds: wall-clock time of the run, the sandbox's own start included.
    """

    status: Status
    stdout: str
    stderr: str
    exit_code: int | None
    seconds: float

    @property
    def timed_out(self) -> bool:
        """Whether it was stopped at the wall-clock limit, or ended by the limit on processor time."""
        return self.status == "time" or self.exit_code in (-signal.SIGXCPU, -signal.SIGKILL)

    @property
    def truncated(self) -> bool:
        """Whether there was more output than is shown."""
        return self.status == "output"


class Sandbox:
    """A closed place for Python code; every run begins anew and leaves nothing behind.

    Runs share nothing, so that one sandbox may be used from many threads.

    Args:
        config: the limits; None: the defaults.

    Raises:
        ConfigError: no backend proves closed on this machine, and the config does not allow to run without isolation.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig()
        self.backend = _choose(self.config)
        """`bubblewrap`, `namespaces`, or `open`."""

    def run(self, code: str) -> Result:
        """Run code as a program of its own.

        Args:
            code: Python source; characters that UTF-8 does not have are replaced.

        Raises:
            RuntimeError: the sandbox itself could not be started.
        """
        return _run(self.backend, self.config, code)


def _choose(config: SandboxConfig) -> str:
    """Return the first backend that proves closed."""
    reasons = {}
    for backend in [config.backend] if config.backend else BACKENDS:
        reasons[backend] = _why_not(backend, shutil.which("bwrap") if backend == "bubblewrap" else None)
        if not reasons[backend]:
            return backend
    said = "; ".join(f"{backend}: {reason}" for backend, reason in reasons.items())
    if config.run_without_isolation:
        _log.warning("code runs WITHOUT ISOLATION, as %s.run_without_isolation allows (%s)", SECTION[:-1], said)
        return "open"
    raise ConfigError(
        SECTION + "run_without_isolation",
        f"must be true where no sandbox can be had ({said})",
        False,
        "Install bubblewrap, allow user namespaces (sysctl user.max_user_namespaces, a container's seccomp profile), "
        "or set it where the code may do whatever your own user may.",
    )


@functools.cache
def _why_not(backend: str, program: str | None) -> str:
    """Return why a backend is not closed on this machine, empty where it is; asked once per process and program."""
    config = SandboxConfig(time_limit_s=20, max_processes=4)
    try:
        result = _run(backend, config, PROOF)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return str(error)
    if result.stdout == "closed" and result.status == "finished":
        return ""
    return (result.stderr.strip().splitlines() or [f"ended as {result.status}"])[-1]


@dataclass(slots=True)
class _Running:
    """One run in progress."""

    process: subprocess.Popen[bytes]
    config: SandboxConfig
    code: bytes
    report: int
    written: dict[str, bytearray] = field(default_factory=lambda: {n: bytearray() for n in ("out", "err", "report")})
    stopped: Status | None = None

    def read(self) -> None:
        """Feed the code and read all output, until everything has ended; kill at the first limit."""
        begin = time.monotonic()
        deadline = begin + self.config.time_limit_s
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        with selectors.DefaultSelector() as selector:
            for name, source in (("out", self.process.stdout), ("err", self.process.stderr), ("report", self.report)):
                selector.register(source, selectors.EVENT_READ, name)
            os.set_blocking(self.process.stdin.fileno(), False)
            selector.register(self.process.stdin, selectors.EVENT_WRITE, "in")
            while any(key.data != "in" for key in selector.get_map().values()):
                for key, _ in selector.select(min(_LOOK_S, max(deadline - time.monotonic(), 0))):
                    if not (self._feed() if key.data == "in" else self._take(key.data, key.fd)):
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if now >= deadline:
                    if self.stopped == "time" or self.written["report"]:
                        return  # someone out of reach holds the pipes: only without isolation
                    self.stop("time")
                    deadline = now + _DRAIN_S
                elif self.stopped is None and memory_of(self.process.pid) > self.config.memory_bytes:
                    self.stop("memory")

    def _feed(self) -> bool:
        """Write the next piece of the code; return whether there is more."""
        assert self.process.stdin
        try:
            self.code = self.code[os.write(self.process.stdin.fileno(), self.code[:65536]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        return bool(self.code)

    def _take(self, name: str, source: int) -> bool:
        """Read the next piece of a pipe, what is beyond the bound only to drop it; return whether it is still open."""
        piece = os.read(source, 65536)
        kept = self.written[name]
        room = max(self.config.max_output_bytes, 4096 if name == "report" else 0) - len(kept)
        kept += piece[: max(room, 0)]
        if name == "report" and piece:
            self.kill()  # the code has ended, and with it ends what it left behind
        elif len(piece) > room and self.stopped is None:
            self.stop("output")
        return bool(piece)

    def stop(self, reason: Status) -> None:
        """Kill the run, because of a limit."""
        self.stopped = reason
        self.kill()

    def kill(self) -> None:
        """Kill the group that holds the sandbox's first process; the kernel then kills all others in it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def _run(backend: str, config: SandboxConfig, code: str) -> Result:
    """Run code in one backend."""
    begin = time.monotonic()
    source = code.encode("utf-8", "replace")
    with contextlib.ExitStack() as stack:
        folder = (
            stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)) if backend == "open" else ""
        )
        report, told = os.pipe()
        stack.callback(os.close, report)
        try:
            process = subprocess.Popen(
                command(backend, config, len(source), told, folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(told,),
                env={},
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(told)
        running = _Running(process, config, source, report)
        try:
            running.read()
        finally:
            running.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
    result = _result(running)
    return replace(result, seconds=time.monotonic() - begin)


def _result(running: _Running) -> Result:
    """Read how a run ended from what it wrote.

    Raises:
        RuntimeError: the code was never started.
    """
    stdout, stderr = (running.written[name].decode("utf-8", "replace") for name in ("out", "err"))
    if running.stopped:
        return Result(running.stopped, stdout, stderr, None, 0.0)
    report = json.loads(running.written["report"] or "{}")
    if "exit_code" not in report:
        reason = report.get("failed") or (stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise RuntimeError(f"the sandbox could not be started: {reason}")
    return Result("failed" if report["exit_code"] else "finished", stdout, stderr, report["exit_code"], 0.0)
