"""The main job as Ray actors: two learner ranks under ZeRO-3, a job on a real cluster, Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from orchestrator.episode import Sampling
from orchestrator.launchers import launch
from orchestrator.loggers import read_metrics
from orchestrator.rejuvenating import read_tensors
from orchestrator.steps import TaskOrder, plan_episodes
from tests.orchestrator.setting import overrides, small_run
from tests.orchestrator.test_integration_inline import agree_over_updates

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.mark.timeout(600)
def test_two_zero3_ranks_and_an_engine_agree_over_five_updates(tmp_path):
    """Also: the engine's version 0 equals the rejuvenated checkpoint that travelled over the object store."""
    config = small_run(
        tmp_path, tmp_path / "run", "learner.ranks=2", "learner.zero_stage=3", "learner.cpus=0.5", "cluster.num_cpus=2"
    )
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with launch(config, run_dir) as workers:
        parcel = workers.prepare(config, str(run_dir / "rejuvenated"))
        assert len(parcel.handles) > 2, "several buckets"
        workers.load(parcel, config)
        workers.publish(0)
        held = workers.rollouts[0].start("weights").result(60)
        for name, tensor in read_tensors(str(run_dir / "rejuvenated")):
            assert torch.equal(held[name].to(torch.float32), tensor.to(torch.float32)), name
        agree_over_updates(workers, config, run_dir)
    assert sorted(p.name for p in (run_dir / "logs").glob("*.log"))[:2] == ["learner-0.log", "learner-1.log"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children_alive(processes: list[psutil.Process]) -> list[str]:
    """Names of those that still run, after a little patience."""
    _, alive = psutil.wait_procs(processes, timeout=30)
    return [p.name() for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def default_sigint():
    """Ctrl-C interrupts, also where the tests run in the background of a shell, which hands down that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


IN_PROCESSES = ["environment.isolation=process", "rollout.env_processes=16", "rollout.env_hosts=2"]
FITTING = ["rollout.env_cpus=0.25", "rollout.cpus=0.5", "learner.cpus=0.5", "cluster.num_cpus=2"]


@pytest.mark.timeout(600)
def test_environments_in_processes_that_actors_keep_give_the_episodes_of_threads(tmp_path):
    found = []
    for isolation in ([], IN_PROCESSES):
        run_dir = tmp_path / f"run{len(isolation)}"
        run_dir.mkdir()
        config = small_run(tmp_path, run_dir, *isolation, *FITTING)
        jobs = plan_episodes(config, TaskOrder.of(config), 1)
        with launch(config, run_dir, learners=False) as workers:
            workers.deliver(workers.read(config.model.sft).handles, 0)
            batch = workers.generate(jobs, config.environment, Sampling(1.0, config.rollout.max_tokens))
        found.append([(t.token_ids, t.reward, t.status, t.messages) for t in batch])
    assert len(found[0]) == 16
    assert found[0] == found[1]
    assert (run_dir / "logs" / "environments-1.log").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("isolation", [[], [*IN_PROCESSES, *FITTING]])
def test_ctrl_c_leaves_no_process_behind(tmp_path, isolation):
    arguments = overrides(tmp_path, tmp_path / "run", "algorithm.steps=1000", *isolation)
    with open(tmp_path / "log.txt", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "run", *arguments],
            stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True,
            preexec_fn=default_sigint,
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while len(read_metrics(tmp_path / "run")) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
            time.sleep(0.2)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) > 4, "Ray, an engine, a learner"
        assert any("fork_server" in " ".join(p.cmdline()) for p in started) == bool(isolation)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(90) == 130
    assert children_alive(started) == []
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
    assert "interrupted" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_job_on_a_real_cluster_leaves_its_results_where_it_said(tmp_path):
    """`ray start --head` with token authentication on loopback, then the documented command."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**ENVIRONMENT, "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_TMPDIR": f"/tmp/r{os.getpid()}"}
    environment.pop("RAY_ADDRESS", None)
    port, dashboard = free_port(), free_port()
    ray = str(Path(sys.executable).parent / "ray")
    subprocess.run([ray, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True, timeout=60)
    head_log = open(tmp_path / "head.txt", "w")  # noqa: SIM115  (open as long as the head node runs)
    head = subprocess.Popen(
        [
            ray, "start", "--head", "--block", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", "--node-ip-address=127.0.0.1", "--num-cpus=2",
            "--object-store-memory=100000000", f"--temp-dir={environment['RAY_TMPDIR']}",
        ],
        env=environment, stdout=head_log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                    break
            time.sleep(0.5)
        run_dir = tmp_path / "results"
        submit = [ray, "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--working-dir", "."]
        run = [sys.executable, "-m", "orchestrator", "run", "configs/math_toy.yaml"]
        extra = [
            f"run_dir={run_dir}", "algorithm.steps=2", "algorithm.prompts_per_step=4",
            "evaluation.sets=[{name: heldout, tasks: 4, kwargs: {split: heldout}}]",
        ]  # fmt: skip
        result = subprocess.run(
            [*submit, "--", *run, *extra], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        assert "succeeded" in result.stdout
        assert len(read_metrics(run_dir)) == 2
        assert (run_dir / "final" / "model.safetensors").is_file()
    finally:
        started = psutil.Process(head.pid).children(recursive=True)
        head.send_signal(signal.SIGTERM)
        head.wait(60)
        assert children_alive(started) == []
