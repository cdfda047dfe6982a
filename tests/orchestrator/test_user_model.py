"""The user of the service desk played by a second model, which the run serves: pico models, real engines and server."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from configs.errors import ConfigError
from configs.loader import load
from envs.retail.endpoint import EndpointError
from envs.retail.environment import RetailEnv
from envs.user_model import KEY_VARIABLE, URL_VARIABLE
from orchestrator import trajectories
from orchestrator.console import Console
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.launchers import launch
from orchestrator.loggers import read_metrics
from orchestrator.running import open_run, run_on
from orchestrator.user_model import close_inline, serve_inline
from policies import model_server
from tests.orchestrator.fakes import run_config
from tests.orchestrator.setting import overrides
from tests.pico import make_checkpoint

TURNS = 20
"""Most turns of an episode: enough for the expert. A random policy's first turn that its limit cuts off ends it."""


def long_pair(folder):
    """The policy's checkpoints for prompts of 11,000 characters, the desk's policy and tools, each one token."""
    for directory in (folder / "base", folder / "sft"):
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16384}))


def arguments(folder: Path, run_dir: Path, *extra: str) -> list[str]:
    """Overrides of a small run on the generated shop."""
    given = overrides(
        folder, run_dir, "environment.id=rejuvenate/Retail-v0", "model.start=sft", "algorithm.steps=1",
        f"environment.kwargs={{max_turns: {TURNS}, user: {{base_url: served, max_tokens: 12, timeout_s: 50}}}}",
        "evaluation.sets=[{name: heldout, tasks: 2, kwargs: {split: heldout}}]", "evaluation.samples=1",
        "evaluation.k=1", "algorithm.prompts_per_step=2", "algorithm.group_size=2", "algorithm.minibatches=1",
        "rollout.max_model_len=12288", "rollout.max_tokens=8", "rollout.max_num_seqs=8",
        "rollout.kv_cache_bytes=134217728",
        "rollout.cpus=0.5", "learner.cpus=0.5", "learner.micro_batch_tokens=12288",
        f"user_model.checkpoint={make_checkpoint(folder / 'user', seed=7)}", "user_model.cpus=0.5",
        "user_model.max_model_len=2048", "user_model.kv_cache_bytes=67108864", "user_model.max_num_seqs=8",
        *extra,
    )  # fmt: skip
    long_pair(folder)
    return given


def request(path: str, key: str | None, body: dict | None = None) -> tuple[int, str]:
    """Status and text of a request to the server that this process's environments are told of."""
    connection = http.client.HTTPConnection(urlsplit(os.environ[URL_VARIABLE]).netloc, timeout=60)
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    connection.request("GET" if body is None else "POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def answered() -> int:
    """Messages that the server has written, as vLLM counts them."""
    status, text = request("/metrics", os.environ[KEY_VARIABLE])
    assert status == 200
    counts = re.findall(r"^vllm:request_success_total\{.*\} ([0-9.e+]+)$", text, re.MULTILINE)
    return int(sum(map(float, counts)))


def servers_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes of a model server below a process, its guards first."""
    below = process.children(recursive=True)
    guards = [p for p in below if any("process_guard.py" in word for word in p.cmdline())]
    return list(dict.fromkeys([*guards, *(child for guard in guards for child in guard.children(recursive=True))]))


def assert_gone(processes: list[psutil.Process], timeout_s: float = 30) -> None:
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def assert_written_nowhere(key: str, folder: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 3
    assert [file for file in files if key.encode() in file.read_bytes()] == []


def assert_played_by_the_model(batch) -> None:
    """Every message of the user was sampled: none is a line of the script."""
    for trajectory in batch:
        assert trajectory.status == "truncated", trajectory.error
        said = [message["content"] for message in trajectory.messages if message["role"] == "user"]
        assert len(said) >= 1
        assert all(text and text not in trajectory.task["instruction"] for text in said)
        messages = 1 + len(trajectory.turns)  # the opening, and an answer to each turn
        assert trajectory.metrics["user_requests"] - trajectory.metrics["user_retries"] == messages
        assert 0 < trajectory.metrics["user_completion_tokens"] <= 12 * trajectory.metrics["user_requests"]
    openings = {trajectory.messages[1]["content"] for trajectory in batch}
    assert len(openings) > len(batch) // 2, "siblings begin with different messages"


def test_environments_of_one_process_find_the_server_as_long_as_it_runs(tmp_path, monkeypatch):
    """On a stand-in for vLLM's server, which starts at once."""
    stand_in = Path(__file__).parents[1] / "policies" / "stand_in_server.py"
    monkeypatch.setattr(
        model_server,
        "command",
        lambda config, name, host, port: [sys.executable, str(stand_in), host, str(port), "serve"],
    )
    assert serve_inline(run_config(), tmp_path) is None
    server = serve_inline(run_config("user_model.checkpoint=org/name"), tmp_path)
    try:
        server.start("wait_until_ready").result(1)
        env = RetailEnv(user="served")
        assert env.reset(seed=0)[0][1] == {"role": "user", "content": "hello"}
        os.environ[KEY_VARIABLE] = os.environ[KEY_VARIABLE][:-1]
        with pytest.raises(EndpointError, match="status 401"):
            env.reset(seed=0)
        assert (tmp_path / "logs" / "user-model.log").is_file()
    finally:
        close_inline(server)
    assert not {URL_VARIABLE, KEY_VARIABLE} & set(os.environ)
    with pytest.raises(ConfigError, match="needs a run that serves a model"):
        env.reset(seed=0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pico_model_plays_the_user_in_evaluation_and_training(tmp_path):
    config = load([], arguments(tmp_path, tmp_path / "run", "launcher=inline"))
    open_run(config, tmp_path / "run")
    with launch(config, tmp_path / "run") as workers:
        key = os.environ[KEY_VARIABLE]
        assert len(key) == 64
        result = run_on(config, workers, tmp_path / "run", Console())
        (row,) = read_metrics(result.run_dir)
        assert row["failed_episodes"] == 0
        assert row["env/user_requests"] - row["env/user_retries"] == 1 + row["turns"]
        for file in ("step_000000.json", "step_000001.json"):
            (found,) = json.loads((result.run_dir / "evaluations" / file).read_text())["sets"]
            assert found["failed"] == 0
        assert_played_by_the_model(list(trajectories.read(result.run_dir, 1)))
        before = answered()
        jobs = [EpisodeJob(group, sample, group, 10 * group + sample) for group in range(2) for sample in range(2)]
        batch = workers.generate(jobs, config.environment, Sampling(1.0, 8))
        assert_played_by_the_model(batch)
        assert answered() - before == sum(trajectory.metrics["user_requests"] for trajectory in batch)
        message = {"model": "user-model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        for wrong in (None, "", key[:-1], key[:-1] + "g"):
            assert request("/v1/chat/completions", wrong, message)[0] == 401
        assert request("/v1/chat/completions", key, message)[0] == 200
        processes = servers_of(psutil.Process())
        assert len(processes) >= 4, "two guards, server, engine"
        assert not any(key in word for process in processes for word in process.cmdline())
    assert_gone(processes, 1)
    assert URL_VARIABLE not in os.environ
    assert KEY_VARIABLE not in os.environ
    assert_written_nowhere(key, tmp_path)


def start(folder: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start the command with its output in `log.txt`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", **variables}
    with open(folder / "log.txt", "w") as output:
        command = [sys.executable, "-m", "orchestrator", *words]
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, text=True)


@pytest.fixture
def ray_folder():
    """Where Ray writes; its sockets want a short path."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_under_ray_gate_and_training_ask_it_and_it_ends_with_a_driver_that_is_killed(tmp_path, ray_folder):
    run_dir = tmp_path / "run"
    pair = {"prompt": "hello", "response": "good day"}  # the desk's own are long, which is not the matter here
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    words = arguments(
        tmp_path, run_dir, "algorithm.steps=100", "cluster.num_cpus=2", "model.start=rejuvenated",
        f"rejuvenation.calibration={tmp_path / 'pairs.jsonl'}", "rejuvenation.calibration_pairs=1",
        "rejuvenation.gate=true", "rejuvenation.gate_prompts=2",
    )  # fmt: skip
    process = start(tmp_path, "run", *words, RAY_TMPDIR=str(ray_folder))
    try:
        deadline = time.monotonic() + 600
        while not read_metrics(run_dir):
            assert time.monotonic() < deadline
            assert process.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
            time.sleep(0.2)
        servers = servers_of(psutil.Process(process.pid))
        assert len(servers) >= 4, "two guards, server, engine"
        key = servers[1].environ()["VLLM_API_KEY"]
        port = next(word for word in servers[1].cmdline() if word.startswith("--port=")).partition("=")[2]
        assert "--host=127.0.0.1" in servers[1].cmdline()
        connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=60)
        connection.request("GET", "/v1/models", headers={"Authorization": "Bearer wrong"})
        assert connection.getresponse().status == 401
    finally:
        process.kill()
        process.wait()
    assert_gone(servers)
    row = read_metrics(run_dir)[0]
    assert row["failed_episodes"] == 0
    assert row["env/user_requests"] - row["env/user_retries"] == 1 + row["turns"]
    assert_played_by_the_model(list(trajectories.read(run_dir, 1)))
    gate = json.loads((run_dir / "gate.json").read_text())
    assert (gate["sft"]["failed"], gate["rejuvenated"]["failed"]) == (0, 0)
    assert_written_nowhere(key, run_dir)
    assert_written_nowhere(key, ray_folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_evaluation_of_a_checkpoint_serves_it_too(tmp_path):
    words = arguments(tmp_path, tmp_path / "run", "launcher=inline")
    process = start(tmp_path, "eval", str(tmp_path / "sft"), *words, COLUMNS="200")
    assert process.wait(500) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    shown = (tmp_path / "log.txt").read_text()
    assert re.search(r"^heldout: .*2 tasks", shown, re.MULTILINE)
    assert "failed" not in shown
