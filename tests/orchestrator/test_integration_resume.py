"""kill -9 between two checkpoints, then `resume=true` in a fresh process: as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from orchestrator.loggers import read_metrics
from tests.orchestrator.setting import overrides

STEPS = 5
TIMED = ("time/", "rollout_tokens_per_s", "learner_tokens_per_s")


def start(arguments, log):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "run", *arguments], stdout=log, stderr=log, env=environment
    )


def untimed(row):
    return {key: value for key, value in row.items() if not key.startswith(TIMED)}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "launcher", ["inline", pytest.param("ray", marks=pytest.mark.slow), pytest.param("zero3", marks=pytest.mark.slow)]
)
def test_killed_run_resumes_exactly(launcher, tmp_path):
    how = {
        "inline": ["launcher=inline"],
        "ray": [],
        "zero3": ["learner.ranks=2", "learner.zero_stage=3", "learner.cpus=0.5", "algorithm.kl_coef=0.1"],
    }[launcher]
    how += [f"algorithm.steps={STEPS}", "checkpoint.every_steps=2", "evaluation.every_steps=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with open(tmp_path / "log.txt", "w") as log:
        assert start(overrides(tmp_path, whole, *how), log).wait(420) == 0, (tmp_path / "log.txt").read_text()[-3000:]
        process = start(overrides(tmp_path, killed, *how), log)
        deadline = time.monotonic() + 300
        while len(read_metrics(killed)) < 3:  # after the checkpoint of step 2, before that of step 4
            assert time.monotonic() < deadline, "the run to be killed did not reach its third step"
            assert process.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        assert not (killed / "final").exists()
        again = start(overrides(tmp_path, killed, *how, "resume=true"), log)
        assert again.wait(420) == 0, (tmp_path / "log.txt").read_text()[-3000:]

    assert [untimed(r) for r in read_metrics(killed)] == [untimed(r) for r in read_metrics(whole)]
    assert len({r["loss"] for r in read_metrics(whole)}) == STEPS, "the runs learned something in every step"
    for step in range(1, STEPS + 1):
        ours, theirs = (
            [json.loads(line) for line in (run / "trajectories" / f"step_{step:06d}.jsonl").read_text().splitlines()]
            for run in (killed, whole)
        )
        for row in (*ours, *theirs):
            row.pop("seconds")
        assert ours == theirs
    assert (killed / "final/model.safetensors").read_bytes() == (whole / "final/model.safetensors").read_bytes()
