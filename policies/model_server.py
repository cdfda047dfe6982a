"""A model behind vLLM's own OpenAI-compatible server, in processes that end with the one that wants them."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from configs.user_model import UserModelConfig
from policies.token_gate import KEY_VARIABLE

log = logging.getLogger("rejuvenate")

RESTARTS = 1
"""How often a server that has answered once is started again when it dies."""
SERVER = "policies.reserved_server"
GUARD = Path(__file__).with_name("process_guard.py")
MIDDLEWARE = "policies.token_gate.TokenGate"
TAIL_LINES = 20
PROBE_EVERY_S = 0.5
CLOSE_S = 8.0
NOT_INHERITED = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),  # of a learner in this process
    *("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_SERVER_DEV_MODE", "VLLM_DEBUG_LOG_API_SERVER_RESPONSE"),
    "VLLM_CPU_OMP_THREADS_BIND",
    *("VLLM_LOGGING_LEVEL", "VLLM_LOGGING_STREAM", "VLLM_LOGGING_CONFIG_PATH", "TORCH_COMPILE_DISABLE"),
)
"""Environment variables that concern an engine or a learner of this process, or would open the server."""


class ModelServer:
    """The server of one model. It starts at once; `wait_until_ready` says when it answers.

    Where it dies after it has answered, it is started again at the same address, `RESTARTS` times.

    Args:
        config: the model and its engine.
        name: what requests call the model.
        key: token that every request must bring.
        log_path: file to which its output is appended.
        host: address of this node at which it listens.
    """

    def __init__(
        self, config: UserModelConfig, name: str, key: str, log_path: str | Path, host: str = "127.0.0.1"
    ) -> None:
        self.config = config
        self.name = name
        self.log_path = Path(log_path)
        self.restarts = 0
        self._key = key
        self._reserved = reserve_port(host)
        self._address: tuple[str, int] = self._reserved.getsockname()
        self._lock = threading.Lock()
        self._ready = False
        self._answered = False
        self._closing = False
        self._failure: str | None = None
        self._process = self._spawn()
        self._watcher = threading.Thread(target=self._watch, name="model-server", daemon=True)
        self._watcher.start()

    @property
    def url(self) -> str:
        """Its address up to the version."""
        return f"http://{self._address[0]}:{self._address[1]}/v1"

    def wait_until_ready(self) -> None:
        """Wait until it answers a message; where it has done so, and did not die since, there is nothing to wait for.

        Raises:
            RuntimeError: it ended, it refuses messages, or it did not answer within `start_timeout_s`. The last lines
                of its log are in the message.
        """
        limit = self.config.start_timeout_s
        deadline = time.monotonic() + limit
        problem = "nothing was tried"
        while True:
            with self._lock:
                ready, failure, restarts = self._ready, self._failure, self.restarts
            if failure is not None:
                raise RuntimeError(self._report(failure))
            if ready and self._listens():  # it may have died a moment ago
                return
            left = deadline - time.monotonic()
            if left <= 0:
                rule = f"did not answer within user_model.start_timeout_s = {limit:g} s (last: {problem})"
                raise RuntimeError(self._report(rule))
            status, problem = self._probe(left)
            if status == 200:
                with self._lock:
                    self._answered = True
                    self._ready = self.restarts == restarts  # else it was the one before that answered
            elif 400 <= status < 500:
                raise RuntimeError(self._report(f"refuses a message: {problem}"))
            else:
                time.sleep(min(PROBE_EVERY_S, left))

    def close(self) -> None:
        """End the server and all its processes."""
        with self._lock:
            self._closing = True
        for end, number in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGKILL)):
            if self._watcher.is_alive():  # then the guard is there: nobody else reaps it
                with contextlib.suppress(ProcessLookupError):
                    end(self._process.pid, number)
                self._watcher.join(CLOSE_S)
        self._reserved.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the server under its guard."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", str(GUARD), str(os.getpid()), *command(self.config, self.name, *self._address)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(self.config, self._key),
                start_new_session=True,  # a group of its own; Ctrl-C in a terminal does not reach it
            )

    def _watch(self) -> None:
        """Start it again when it dies, as often as is allowed."""
        while True:
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            # What a guard that died itself has left; as long as it is not reaped the group is no other's.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            with self._lock:
                if self._closing:
                    return
                self._ready = False
                if not self._answered or self.restarts >= RESTARTS:
                    self._failure = "ended before it answered" if not self._answered else "ended once more"
                    return
                self.restarts += 1
                log.warning("the server of %s ended and is started again; its log: %s", self.name, self.log_path)
                try:
                    self._process = self._spawn()
                except OSError as error:
                    self._failure = f"ended and could not be started again ({error})"
                    return

    def _listens(self) -> bool:
        """Whether somebody takes connections at the address."""
        with contextlib.suppress(OSError), socket.create_connection(self._address, timeout=PROBE_EVERY_S):
            return True
        return False

    def _probe(self, timeout_s: float) -> tuple[int, str]:
        """Ask for a message of one token; return the status (0: nobody there) and what was wrong in words."""
        body = {"model": self.name, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        connection = http.client.HTTPConnection(*self._address, timeout=timeout_s)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read(1000).decode("utf-8", "replace").replace(self._key, "[token]")
            return response.status, f"status {response.status}: {text}"
        except (OSError, http.client.HTTPException) as error:
            return 0, f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    def _report(self, what: str) -> str:
        """Say what is wrong, with the end of the log."""
        lines: list[str] = []
        with contextlib.suppress(OSError), open(self.log_path, errors="replace") as output:
            lines = [line.rstrip() for line in collections.deque(output, TAIL_LINES)]
        shown = "\n".join(f"  {line}" for line in lines)
        place = f"{self.name} ({self.config.checkpoint}) at {self.url}"
        return f"the server of {place} {what}. The last lines of its log, {self.log_path}:\n{shown}"


def command(config: UserModelConfig, name: str, host: str, port: int) -> list[str]:
    """Return vLLM's command line. The token is no part of it: anybody on the machine could read it there."""
    arguments = {
        "model": config.checkpoint,
        "host": host,
        "port": port,
        "served-model-name": name,
        "dtype": config.dtype,
        "max-model-len": config.max_model_len,
        "max-num-seqs": config.max_num_seqs,
        "load-format": "safetensors",  # no pickle
        "middleware": MIDDLEWARE,
        "uvicorn-log-level": "warning",
    }
    if config.device == "cpu":
        arguments["kv-cache-memory-bytes"] = config.kv_cache_bytes
    else:
        arguments["gpu-memory-utilization"] = config.gpu_memory_utilization
    if config.tensor_parallel > 1:  # left to itself vLLM may start Ray actors of its own, for which there is no room
        arguments |= {"tensor-parallel-size": config.tensor_parallel, "distributed-executor-backend": "mp"}
    flags = ["--disable-uvicorn-access-log", "--disable-fastapi-docs", *(["--enforce-eager"] * config.enforce_eager)]
    given = [f"--{option}={value}" for option, value in arguments.items()]
    return [sys.executable, "-m", SERVER, *given, *flags]


def environment(config: UserModelConfig, key: str) -> dict[str, str]:
    """Return the environment variables of the server."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    root = str(Path(__file__).resolve().parents[1])  # where the middleware is found
    path = os.pathsep.join(part for part in (root, inherited.get("PYTHONPATH")) if part)
    variables = {
        KEY_VARIABLE: key,
        "PYTHONPATH": path,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
    }
    if config.device == "cpu":
        threads = str(config.threads)
        # Unbound threads: bound ones would sit on the same cores as those of the other engine or of the learner.
        variables |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if config.enforce_eager:  # vLLM compiles some of its kernels even then
            variables["TORCH_COMPILE_DISABLE"] = "1"
    return inherited | variables


def reserve_port(host: str) -> socket.socket:
    """Return a socket that keeps a free port of `host` for a server that binds it with SO_REUSEPORT.

    As long as the socket is open no other user can listen at the port, also before the server does and while it is
    started again: to whoever listens the token is sent. Linux lets only processes of one user share a port, and those
    only where all of them set SO_REUSEPORT; with SO_REUSEADDR on this socket anybody could take it (socket(7)).
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, 0))
    return reserved
