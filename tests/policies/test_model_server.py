"""The server of the user model: its life on a stand-in for vLLM that starts at once, then vLLM itself."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from configs.user_model import UserModelConfig
from policies import model_server, reserved_server
from policies.model_server import ModelServer, command, environment, reserve_port
from policies.token_gate import KEY_VARIABLE, TokenGate
from tests.pico import make_checkpoint

KEY = "0123456789abcdef"
STAND_IN = Path(__file__).with_name("stand_in_server.py")


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Start stand-ins; they are closed at the end."""
    servers = []

    def start(mode="serve", limit=30.0):
        def stand_in(config, name, host, port):
            return [sys.executable, str(STAND_IN), host, str(port), mode]

        monkeypatch.setattr(model_server, "command", stand_in)
        config = UserModelConfig(checkpoint="/models/user", start_timeout_s=limit)
        servers.append(ModelServer(config, "user-model", KEY, tmp_path / "logs" / "user-model.log"))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ask(server, key=KEY, path="/v1/chat/completions", method="POST", **body):
    """Status and answer of a request."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    messages = [{"role": "user", "content": "Hello."}]
    text = json.dumps({"model": server.name, "messages": messages, "max_tokens": 4, **body})
    connection.request(method, path, None if method == "GET" else text, headers)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data.decode()


def pids(log_path):
    """Of every start of the stand-in: the server's and its engine's."""
    starts = [line.split()[1:] for line in log_path.read_text().splitlines() if line.startswith("pids")]
    return [int(pid) for start in starts for pid in start]


def gone(numbers, timeout_s=20.0):
    """Whether none of these processes runs any more, after a little patience."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not any(map(runs, numbers)):
            return True
        time.sleep(0.05)
    return False


def runs(number):
    """Whether a process is there and no zombie; it may end while it is looked at."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_answers_whoever_has_the_token_until_it_is_closed(serve):
    server = serve()
    server.wait_until_ready()
    assert ask(server)[0] == 200
    assert ask(server, key="wrong")[0] == 401
    assert server.url.startswith("http://127.0.0.1:")
    found = pids(server.log_path)
    assert len(found) == 2
    assert not gone(found, 0.2)
    server.close()
    assert gone(found, 0.5), "the server and its engine"
    server.close()


def guards_of(server_pid):
    """The two guards above a server, the upper one last."""
    lower = psutil.Process(server_pid).parent()
    return [lower.pid, lower.ppid()]


@pytest.mark.parametrize("victim", ["server", "lower guard", "upper guard"])
def test_it_is_started_again_once_at_the_same_address(serve, victim):
    server = serve()
    server.wait_until_ready()
    url, first = server.url, pids(server.log_path)

    def kill(server_pid):
        lower, upper = guards_of(server_pid)
        os.kill({"server": server_pid, "lower guard": lower, "upper guard": upper}[victim], signal.SIGKILL)
        return [lower, upper]

    guards = kill(first[0])
    assert gone([*first, *guards]), "no engine stays behind"
    server.wait_until_ready()
    assert (server.url, server.restarts, ask(server)[0]) == (url, 1, 200)
    second = pids(server.log_path)[2:]
    assert len(second) == 2
    kill(second[0])
    assert gone(second)
    with pytest.raises(RuntimeError, match=r"user-model \(/models/user\) at http.* ended once more\.") as raised:
        server.wait_until_ready()
    assert str(server.log_path) in str(raised.value)
    assert f"pids {second[0]} {second[1]}" in str(raised.value), "the end of the log"


def test_one_that_ends_before_it_answers_is_not_started_again(serve):
    server = serve("die")
    with pytest.raises(RuntimeError, match=r"ended before it answered[\s\S]*no such checkpoint\n.*status 1"):
        server.wait_until_ready()
    assert server.restarts == 0
    assert gone(pids(server.log_path))


def test_one_that_does_not_answer_in_time_is_named_with_the_limit(serve):
    server = serve("hang", limit=1.5)
    with pytest.raises(RuntimeError, match=r"did not answer within user_model\.start_timeout_s = 1\.5 s.*refused"):
        server.wait_until_ready()
    server.close()
    assert gone(pids(server.log_path), 0.5)


def test_one_that_refuses_a_message_says_why_without_the_token(serve):
    server = serve("refuse")
    with pytest.raises(RuntimeError, match="refuses a message: status 400: no chat template") as raised:
        server.wait_until_ready()
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("with_guard", [False, True])
def test_it_ends_when_its_process_is_killed(tmp_path, with_guard):
    """Ray kills the children of a process that it ends, before they could do anything."""
    program = f"""
import sys, time
from configs.user_model import UserModelConfig
from policies import model_server, reserved_server
model_server.command = lambda config, name, host, port: [sys.executable, {str(STAND_IN)!r}, host, str(port), "serve"]
server = model_server.ModelServer(UserModelConfig(checkpoint="x"), "m", "k", {str(tmp_path / "log")!r})
server.wait_until_ready()
print("ready", flush=True)
time.sleep(1000)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    found = pids(tmp_path / "log")
    lower, upper = guards_of(found[0])
    parent.kill()
    if with_guard:
        os.kill(upper, signal.SIGKILL)
    parent.wait()
    assert gone([*found, lower, upper])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_port_is_kept_from_everybody_who_does_not_share_it_as_the_same_user(host):
    """Of other users, whose sockets say what they like, the kernel keeps a port that is shared by SO_REUSEPORT."""
    with reserve_port("127.0.0.1") as reserved:
        assert not reserved.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        port = reserved.getsockname()[1]
        for options in ([], [socket.SO_REUSEADDR]):
            with listener(options) as other, pytest.raises(OSError, match="in use"):
                other.bind((host, port))
        for _ in range(2):  # the server, and the one that is started in its place
            with listener([socket.SO_REUSEADDR, socket.SO_REUSEPORT]) as server:
                server.bind(("127.0.0.1", port))
                server.listen()
                socket.create_connection(("127.0.0.1", port), 10).close()


def listener(options):
    """A socket that is to listen, with these options."""
    made = socket.socket()
    for option in options:
        made.setsockopt(socket.SOL_SOCKET, option, 1)
    return made


def test_vllm_is_told_to_share_the_port(monkeypatch):
    told = []
    entry = types.SimpleNamespace(setup_server=lambda args, *, reuse_port: told.append((args, reuse_port)))
    entry.main = lambda: entry.setup_server("arguments", reuse_port=False)  # as vLLM's does
    launchers = types.SimpleNamespace(entry=entry)
    monkeypatch.setitem(sys.modules, "vllm.entrypoints.launchers.api_server", launchers)
    reserved_server.main()
    assert told == [("arguments", True)]


def test_the_command_line_holds_the_engine_but_no_token():
    config = UserModelConfig(checkpoint="org/model", max_model_len=100, max_num_seqs=3, kv_cache_bytes=1 << 21)
    words = command(config, "user-model", "127.0.0.1", 8123)
    assert words[:4] == [sys.executable, "-m", "policies.reserved_server", "--model=org/model"]
    for word in (
        *("--host=127.0.0.1", "--port=8123", "--served-model-name=user-model", "--load-format=safetensors"),
        *("--dtype=float32", "--max-model-len=100", "--max-num-seqs=3", "--kv-cache-memory-bytes=2097152"),
        *("--enforce-eager", "--middleware=policies.token_gate.TokenGate"),
    ):
        assert word in words
    assert not [word for word in words if "key" in word or "gpu" in word or "trust" in word]
    on_gpus = UserModelConfig(checkpoint="m", device="cuda", tensor_parallel=2, dtype="bfloat16", enforce_eager=False)
    words = command(on_gpus, "user-model", "10.0.0.1", 1)
    for word in ("--tensor-parallel-size=2", "--distributed-executor-backend=mp", "--gpu-memory-utilization=0.85"):
        assert word in words
    assert not [word for word in words if "kv-cache" in word or "eager" in word]


def test_what_concerns_this_processs_engine_does_not_reach_the_server(monkeypatch):
    for name in ("RANK", "VLLM_LOGGING_CONFIG_PATH", "VLLM_SERVER_DEV_MODE", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "mine")
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    found = environment(UserModelConfig(checkpoint="m", threads=3), KEY)
    assert not {"RANK", "VLLM_LOGGING_CONFIG_PATH", "VLLM_SERVER_DEV_MODE"} & set(found)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in found
    assert (found["VLLM_ATTENTION_BACKEND"], found[KEY_VARIABLE]) == ("mine", KEY)
    assert (found["OMP_NUM_THREADS"], found["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "nobind")
    assert found["PYTHONPATH"].split(os.pathsep) == [str(Path(model_server.__file__).parents[1]), "/some/where"]
    on_gpu = environment(UserModelConfig(checkpoint="m", device="cuda"), KEY)
    assert "VLLM_CPU_OMP_THREADS_BIND" not in on_gpu


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("given", "passes"),
    [(f"Bearer {KEY}", True), (KEY, False), (f"Bearer {KEY}x", False), ("Bearer ", False), (None, False)],
)
def test_the_gate_lets_only_the_token_through(monkeypatch, kind, given, passes):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(scope["type"])

    async def send(message):
        sent.append(message)

    headers = [] if given is None else [(b"authorization", given.encode())]
    gate = TokenGate(app)
    asyncio.run(gate({"type": kind, "path": "/metrics", "headers": headers}, None, send))
    assert reached == ([kind] if passes else [])
    if not passes:
        assert sent[0].get("status", sent[0].get("code")) == (401 if kind == "http" else 1008)
    asyncio.run(gate({"type": "lifespan"}, None, send))
    assert reached[-1] == "lifespan"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vllm_serves_a_checkpoint_guards_every_path_and_survives_one_death(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "user")
    config = UserModelConfig(checkpoint=str(checkpoint), max_model_len=256, kv_cache_bytes=1 << 24, max_num_seqs=4)
    server = ModelServer(config, "user-model", KEY, tmp_path / "log")
    try:
        server.wait_until_ready()
        status, answer = ask(server)
        assert status == 200, answer
        found = json.loads(answer)
        assert found["model"] == "user-model"
        assert found["usage"]["completion_tokens"] >= 1
        for path in ("/v1/chat/completions", "/invocations", "/tokenize", "/metrics", "/openapi.json"):
            assert ask(server, key="wrong", path=path)[0] == 401, path
        assert ask(server, path="/metrics", method="GET")[0] == 200
        family = psutil.Process(server._process.pid).children(recursive=True)
        assert len(family) >= 2, "the server and its engine"
        os.kill(family[0].pid, signal.SIGKILL)
        assert gone([process.pid for process in family])
        server.wait_until_ready()
        assert (ask(server)[0], server.restarts) == (200, 1)
        family = psutil.Process(server._process.pid).children(recursive=True)
    finally:
        server.close()
    assert gone([process.pid for process in family], 1)
    assert KEY not in (tmp_path / "log").read_text()
