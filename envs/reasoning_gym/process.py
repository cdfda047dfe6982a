"""The process that holds reasoning-gym: `python -m envs.reasoning_gym.process` answers JSON lines; `ask` asks it.

A process of its own, because generators draw from global random state and from Python's hash seed, because some take
seconds, and because scorers compute what the model writes: `9**9**9` would hold up every thread of this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

STARTUP_S = 120.0
"""Longest time from the start of the process to its first answer: the import alone takes some 4 s."""
QUEUE_S = 120.0
"""Longest time to wait for a process that other episodes keep busy."""
MEMORY_BYTES = 4 << 30
"""Address space of the process."""
_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
_KEPT_PREFIXES = ("OMP_", "OPENBLAS_", "MKL_", "LC_")


class TooLong(RuntimeError):
    """The process was ended because a request took longer than its limit."""


class Failed(RuntimeError):
    """The package raised on a request; the process goes on."""


class Ended(RuntimeError):
    """The process ended by itself at a request; the next one starts another."""


class Process:
    """One process for all environments of this one; threads take turns. It is started when it is first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """Return the answer to a request of `envs.reasoning_gym.generators.answer_to`.

        Args:
            request: plain JSON.
            limit_s: longest time to compute; then the process is ended, and the next request starts another.

        Raises:
            TooLong: it took longer.
            Failed: the package raised.
            Ended: the process ended by itself.
            RuntimeError: it does not start, or was busy for too long.
        """
        if not self._lock.acquire(timeout=QUEUE_S):
            raise RuntimeError(f"waited {QUEUE_S:g} s for the process of reasoning-gym, which others keep busy.")
        try:
            process = self._started()
            answer = self._exchange(process, dict(request) | {"limit_s": limit_s}, limit_s)
        except BaseException:
            self._end()
            raise
        finally:
            self._lock.release()
        if "raised" in answer:
            raise Failed(answer["raised"])
        return answer

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the running process; start it, and wait until it has the package, where there is none."""
        if self._running is not None and self._running.poll() is None:
            return self._running
        self._end()
        environment = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._running = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "envs.reasoning_gym.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment | {"PYTHONPATH": paths, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C goes to the run, which ends this process itself
        )
        try:
            self._exchange(self._running, {"limit_s": STARTUP_S}, STARTUP_S)
        except (Ended, TooLong) as error:
            raise RuntimeError(f"the process of reasoning-gym does not start: {error}") from error
        return self._running

    def _exchange(self, process: subprocess.Popen[bytes], request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """Send one line and read one."""
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + limit_s
        with contextlib.suppress(BrokenPipeError):  # it has ended; reading says so
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise TooLong(f"reasoning-gym took longer than {limit_s:g} s for {_shown(request)}.")
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                raise Ended(f"the process of reasoning-gym ended at {_shown(request)}: {self._last_words()}")
            line += part
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        """Return the end of what the process wrote to stderr, and how it ended."""
        assert self._running is not None
        assert self._errors is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.wait(5)
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 500))
        text = self._errors.read().decode("utf-8", "replace").strip()
        return f"exit code {self._running.returncode}; {text or 'it said nothing'}"

    def _end(self) -> None:
        """Kill the process and collect it."""
        if self._running is not None:
            self._running.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running.wait(5)
            for pipe in (self._running.stdin, self._running.stdout, self._errors):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        self._running = self._errors = None


def _shown(request: Mapping[str, Any]) -> str:
    """Name a request, without the model's text."""
    what = "scoring an answer" if "answer" in request else "a task"
    return f"{what} of {request['name']!r}, seed {request['seed']}" if "name" in request else "its start"


PROCESS = Process()
"""The one process of this process's environments."""
atexit.register(PROCESS.close)


def main() -> None:
    """Answer requests until stdin ends."""
    # stdout is for answers alone: what the package prints goes nowhere
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from envs.reasoning_gym.generators import answer_to

    for line in sys.stdin:
        request = json.loads(line)
        # the alarm ends a process whose parent is gone and cannot end it
        signal.setitimer(signal.ITIMER_REAL, request["limit_s"] + 10)
        try:
            answer = answer_to(request) if "name" in request else {}
        except Exception as error:  # a scorer on the model's text
            answer = {"raised": f"{type(error).__name__}: {error}"[:500]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
