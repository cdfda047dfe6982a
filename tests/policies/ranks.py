"""Learner ranks for tests: forked from one process that has imported everything, which costs more than their work."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
RANKS = ((1, 0), (2, 0), (2, 1))
"""(ranks, rank) of the learner groups: one of one rank, one of two."""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def results_of(script: str, checkpoint: Path, out: Path, timeout_s: float) -> dict[tuple[int, int], dict[Any, Any]]:
    """Run a script of this folder that ends in `main`, and read what each rank of both groups found."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/policies" / script), str(checkpoint), str(out)]
    with (out / "log.txt").open("w+") as log:
        process = subprocess.Popen(
            [*command, free_port(), free_port()],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the ranks too
            process.wait()
        log.seek(0)
        assert code == 0, log.read()[-5000:]
    return {(r, i): torch.load(out / f"results_{r}_{i}.pt", weights_only=False) for r, i in RANKS}


def main(run_rank: Callable[[str, Path, int, int], dict[Any, Any]], checkpoint: str, out: str, *ports: str) -> int:
    """Fork the ranks, each with the environment of its group; write down what `run_rank` returns."""
    import deepspeed  # noqa: F401
    from transformers import AutoModelForCausalLM, Qwen2ForCausalLM  # noqa: F401

    def run(ranks: int, rank: int) -> None:
        names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        values = (str(ranks), str(rank), str(rank), "127.0.0.1", ports[ranks - 1])
        os.environ |= dict(zip(names, values, strict=True))
        torch.save(run_rank(checkpoint, Path(out), ranks, rank), Path(out) / f"results_{ranks}_{rank}.pt")

    gc.collect()
    gc.freeze()  # DeepSpeed collects garbage with each engine: without this through all that was imported
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=group, daemon=True) for group in RANKS]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)
