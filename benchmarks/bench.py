"""`make bench`: tokens per second of rollout worker and learner as shares of what the bare libraries reach.

Both sides run in the same invocation, in turn, three times each; the best of each side counts. Ratios below the
required ones make the command fail.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import learner_sides, rollout_sides
from benchmarks.models import SIZES, make_model

ROUNDS = 3
REQUIRED = {"rollout": 0.80, "learner": 0.70}
WAIT_S = 900.0


class Side:
    """A process that measures when it is told to."""

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
        self._process.start()
        assert self._receive("its start") == "ready"

    def measure(self, what: Any) -> tuple[int, float]:
        """Tokens and seconds of one round."""
        self._connection.send(what)
        return self._receive(str(what))

    def ask(self, what: Any) -> Any:
        """Send and receive anything."""
        self._connection.send(what)
        return self._receive(str(what))

    def tell(self, what: Any) -> None:
        """Send without waiting."""
        self._connection.send(what)

    def close(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join(30)
        self._process.kill()

    def _receive(self, what: str) -> Any:
        if not self._connection.poll(WAIT_S):
            raise RuntimeError(f"a benchmark process did not answer within {WAIT_S:.0f} s ({what})")
        return self._connection.recv()


def bench_rollout(size: str, model_dir: str, threads: int) -> list[dict[str, Any]]:
    """Rollout worker against bare vLLM, math and multi-turn."""
    worker = Side(rollout_sides.serve_worker, model_dir, threads, None)
    requests = {}
    for task in rollout_sides.TASKS:  # a warm-up that also records what the bare side is to do
        worker.measure(task)
        requests[task] = worker.ask(True)
    bare = Side(rollout_sides.serve_bare, model_dir, threads, requests)
    rows = []
    for task in rollout_sides.TASKS:
        bare.measure(task)
        ours, limit = [], []
        for _ in range(ROUNDS):
            ours.append(worker.measure(task))
            worker.tell(False)
            limit.append(bare.measure(task))
        rows.append(row(f"rollout, {task}", size, ours, limit, REQUIRED["rollout"]))
    worker.close()
    bare.close()
    return rows


def bench_learner(size: str, model_dir: str, threads: int) -> list[dict[str, Any]]:
    """Learner against a bare torch loop."""
    ours_side = Side(learner_sides.serve_learner, model_dir, threads, None)
    bare_side = Side(learner_sides.serve_bare, model_dir, threads, None)
    ours, limit = [], []
    for number in range(ROUNDS + 1):
        pair = ours_side.measure(number), bare_side.measure(number)
        if number:  # the first is a warm-up
            ours.append(pair[0])
            limit.append(pair[1])
    ours_side.close()
    bare_side.close()
    return [row("learner", size, ours, limit, REQUIRED["learner"])]


def row(what: str, size: str, ours: list, limit: list, required: float) -> dict[str, Any]:
    """One result: the best round of each side, and their ratio."""
    tokens = {count for count, _ in [*ours, *limit]}
    best = max(count / seconds for count, seconds in ours)
    bound = max(count / seconds for count, seconds in limit)
    print(f"{what}, {size}: {best / bound:.2f} of bare ({required:.2f} required)", flush=True)
    return {
        "what": what,
        "size": size,
        "tokens": sorted(tokens),
        "ours": best,
        "bare": bound,
        "ratio": best / bound,
        "required": required,
    }


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--parts", default="rollout,learner")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    rows = []
    for size in options.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            model_dir = str(make_model(size, Path(folder) / size))
            if "rollout" in options.parts:
                rows += bench_rollout(size, model_dir, options.threads)
            if "learner" in options.parts:
                rows += bench_learner(size, model_dir, options.threads)
    table = Table("what", "model", "ours, tokens/s", "bare, tokens/s", "ratio", "required")
    for r in rows:
        table.add_row(
            r["what"], r["size"], f"{r['ours']:,.0f}", f"{r['bare']:,.0f}", f"{r['ratio']:.2f}", f"{r['required']:.2f}"
        )
    Console().print(table)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))
    missed = [r for r in rows if r["ratio"] < r["required"]]
    if missed:
        raise SystemExit("below what is required: " + ", ".join(f"{r['what']} {r['size']}" for r in missed))


if __name__ == "__main__":
    main()
