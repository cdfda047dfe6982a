"""`make bench`: tokens per second of rollout worker and learner as shares of what the bare libraries reach.

Both sides run in the same invocation, in turn, on the same tokens; after two warm-ups the best of three rounds counts
on each side. The rows go to docs/results/bench.json and the ratios to bench.md beside it, over those of an earlier run
of the same part and model. Ratios below the required ones make the command fail.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import learner_sides, rollout_sides, short
from benchmarks.models import SIZES, make_model
from orchestrator.run_directory import versions

WARM_UPS = 2
ROUNDS = 3
REQUIRED = {"rollout": 0.80, "learner": 0.70}
WAIT_S = 900.0
OUTPUT = Path("docs/results/bench.json")
ABOUT = """# Throughput against the bare libraries

Made by `make bench`: tokens per second of the rollout worker over those of bare vLLM, and of the learner over those of
a bare torch loop. Both sides of a row process the same tokens, in turn, in one invocation; after two warm-ups the best
of three rounds counts on each side. The models have random weights, `tiny` 0.75M and `mid` 22.6M parameters, float32,
on a CPU.

In `multi-turn` the environment costs nothing, and each of its answers depends on what the model said, so that siblings
get different ones and each has its own rendered.

| what | model | ratio | required | commit |
|---|---|---|---|---|
"""

Round = tuple[int, float]
"""Tokens and seconds."""


class Side:
    """A process that measures when it is told to."""

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()  # else the end of the process would not end the connection
        assert self._receive("its start") == "ready"

    def measure(self, what: Any) -> Round:
        """Tokens and seconds of one round."""
        return self.ask(what)

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
        """Return what the process sends; what it sends as an exception is raised here."""
        if not self._connection.poll(WAIT_S):
            raise RuntimeError(f"a benchmark process did not answer within {WAIT_S:.0f} s ({what})")
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(f"a benchmark process ended ({what}); what it printed says why") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def bench_rollout(size: str, folder: Path, threads: int) -> list[dict[str, Any]]:
    """Rollout worker against bare vLLM, math and multi-turn."""
    rows = []
    for task in rollout_sides.TASKS:
        model_dir = str(make_model(size, folder / f"{size}-{task}", rollout_sides.TASKS[task].end_tokens))
        worker = Side(rollout_sides.serve_worker, model_dir, threads, None)
        worker.measure(task)
        requests = worker.ask(True)  # what the bare side is to do
        bare = Side(rollout_sides.serve_bare, model_dir, threads, {task: requests})
        rounds = []
        for _ in range(WARM_UPS + ROUNDS):
            ours = worker.measure(task)
            worker.tell(False)
            rounds.append((ours, bare.measure(task)))
        worker.close()
        bare.close()
        turns = sum(map(len, requests)) / len(requests)
        rows.append(row(f"rollout, {task}", size, rounds, REQUIRED["rollout"]) | {"turns_per_episode": turns})
    return rows


def bench_learner(size: str, folder: Path, threads: int) -> list[dict[str, Any]]:
    """Learner against a bare torch loop, on the same samples in every round."""
    model_dir = str(make_model(size, folder / size))
    ours_side = Side(learner_sides.serve_learner, model_dir, threads, None)
    bare_side = Side(learner_sides.serve_bare, model_dir, threads, None)
    rounds = [
        (ours_side.measure(learner_sides.SEED), bare_side.measure(learner_sides.SEED)) for _ in range(WARM_UPS + ROUNDS)
    ]
    ours_side.close()
    bare_side.close()
    return [row("learner", size, rounds, REQUIRED["learner"])]


BENCHES: dict[str, Callable[[str, Path, int], list[dict[str, Any]]]] = {
    "rollout": bench_rollout,
    "learner": bench_learner,
}
"""Part -> what measures it."""


def row(what: str, size: str, rounds: Sequence[tuple[Round, Round]], required: float) -> dict[str, Any]:
    """One result: the best round of each side after the warm-ups, and their ratio.

    Raises:
        RuntimeError: the two sides, or two rounds of one, processed different numbers of tokens.
    """
    ours, limit = zip(*rounds, strict=True)
    counts = [[tokens for tokens, _ in side] for side in (ours, limit)]
    if len({tokens for side in counts for tokens in side}) != 1:
        raise RuntimeError(
            f"{what}, {size}: both sides must process the same tokens in every round, but ours had {counts[0]} and the "
            f"bare one {counts[1]}: their ratio would compare different work."
        )
    best = max(tokens / seconds for tokens, seconds in ours[WARM_UPS:])
    bound = max(tokens / seconds for tokens, seconds in limit[WARM_UPS:])
    print(f"{what}, {size}: {best / bound:.2f} of bare ({required:.2f} required)", flush=True)
    return {
        "what": what,
        "size": size,
        "tokens": counts[0][0],
        "ours": best,
        "bare": bound,
        "ratio": best / bound,
        "required": required,
    }


def save(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write rows as JSON and their ratios as a table beside it; rows of other parts and models that are there stay."""
    earlier = json.loads(path.read_text()) if path.exists() else []
    merged = {(r["what"], r["size"]): r for r in [*earlier, *rows]}.values()
    lines = [
        f"| {r['what']} | {r['size']} | {r['ratio']:.2f} | {r['required']:.2f} | {short(r['commit'])} |\n"
        for r in merged
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(merged), indent=1) + "\n")
    path.with_suffix(".md").write_text(ABOUT + "".join(lines))


def show(rows: Iterable[dict[str, Any]]) -> None:
    """Print the table with the absolute figures."""
    table = Table("what", "model", "ours, tokens/s", "bare, tokens/s", "ratio", "required")
    for r in rows:
        table.add_row(
            r["what"], r["size"], f"{r['ours']:,.0f}", f"{r['bare']:,.0f}", f"{r['ratio']:.2f}", f"{r['required']:.2f}"
        )
    Console().print(table)


def main() -> None:
    """Measure everything, keep every part's rows as soon as it is measured, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--parts", default=",".join(BENCHES))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON of the rows; the table is written beside it")
    options = parser.parse_args()
    commit = versions()["git"] or "unknown"
    rows = []
    for size in options.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for part in options.parts.split(","):
                found = BENCHES[part](size, Path(folder), options.threads)
                measured = [r | {"threads": options.threads, "commit": commit} for r in found]
                save(measured, options.output)
                rows += measured
    show(rows)
    missed = [r for r in rows if r["ratio"] < r["required"]]
    if missed:
        raise SystemExit("below what is required: " + ", ".join(f"{r['what']} {r['size']}" for r in missed))


if __name__ == "__main__":
    main()
