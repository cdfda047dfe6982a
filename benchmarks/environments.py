"""`make bench-environments`: what tools that wait add to the generation time of many concurrent episodes.

The rollout worker runs the same episodes with tools that wait and with tools that answer at once, in turn, in one
process and on one engine; after two warm-ups of each the best of the rounds counts. Prompts, seeds and answers are the
same, so both sides sample the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import short
from benchmarks.bench import WARM_UPS, Side
from benchmarks.models import make_model
from benchmarks.waiting import CALLS
from configs.environment import EnvironmentConfig
from configs.rollout import RolloutConfig
from orchestrator.run_directory import versions, write_atomic
from policies.trajectory import FAILED, Trajectory

EPISODES = 512
WAIT_S = 0.05
ROUNDS = 5
REQUIRED = 0.10
"""Most that the waiting may add, as a share of the time without it."""
MAX_TOKENS = 64
END_TOKENS = 3
"""Of 64: a turn has about 20 tokens, as many as a short tool call."""
OUTPUT = Path("docs/results/bench-environments.json")
ABOUT = f"""# Tools that wait

Made by `make bench-environments`: seconds that the rollout worker takes for {EPISODES} concurrent episodes of up to
{CALLS} tool calls each, where every call waits {1000 * WAIT_S:.0f} ms, and where none does. Same engine, same prompts,
seeds and sampled tokens, in turn; after {WARM_UPS} warm-ups of each the best of {ROUNDS} rounds counts. The `tiny`
model (0.75M parameters, random weights) on a CPU.

| episodes | tool calls | tokens | without waits | with waits | added | required | commit |
|---|---|---|---|---|---|---|---|
"""


def rollout_config(threads: int, **settings: Any) -> RolloutConfig:
    """All episodes decode at once: `env_threads` is the default."""
    return RolloutConfig(
        threads=threads, max_model_len=512, max_tokens=MAX_TOKENS, max_num_seqs=EPISODES, kv_cache_bytes=1 << 30,
        **settings,
    )  # fmt: skip


def serve(connection: Connection, model_dir: str, threads: int, settings: dict[str, Any]) -> None:
    """Run all episodes whenever the other side sends how long their tools wait."""
    from orchestrator.episode import EpisodeJob, Sampling
    from orchestrator.rejuvenating import read_tensors
    from orchestrator.rollout import RolloutWorker
    from orchestrator.transport import InProcessTransport, publish

    transport = InProcessTransport()
    worker = RolloutWorker(rollout_config(threads, **settings), model_dir, transport)
    handles = publish(transport, read_tensors(model_dir), 1 << 26, 0)
    worker.update_weights(handles, 0)
    jobs = [EpisodeJob(number, 0, number, number) for number in range(EPISODES)]
    connection.send("ready")
    while (wait_s := connection.recv()) is not None:
        environment = EnvironmentConfig("benchmarks.waiting:WaitingEnv", {"wait_s": wait_s})
        start = time.perf_counter()
        trajectories = worker.run(jobs, environment, Sampling(1.0, MAX_TOKENS))
        seconds = time.perf_counter() - start
        worker.update_weights(handles, 0)  # empties the prefix cache, as after every training step
        try:
            check(trajectories, wait_s)
        except RuntimeError as fault:
            connection.send(fault)
            continue
        connection.send(
            {
                "tokens": sum(sum(t.loss_mask) for t in trajectories),
                "calls": round(sum(t.metrics["waits"] for t in trajectories)),
                "seconds": seconds,
            }
        )


def check(trajectories: Sequence[Trajectory], wait_s: float) -> None:
    """Raise `RuntimeError` where a round is no measurement: an episode failed, or a call did not wait."""
    for t in trajectories:
        if t.status in FAILED:
            raise RuntimeError(f"episode {t.group} failed as {t.status}: {t.error}")
        if t.metrics["waits"] != min(len(t.turns), CALLS) or len(t.turns) > CALLS + 1:
            raise RuntimeError(f"episode {t.group} had {t.metrics['waits']:.0f} calls in {len(t.turns)} turns")
        if t.metrics.get("waited_s", 0.0) < wait_s * t.metrics["waits"]:
            raise RuntimeError(f"episode {t.group} waited {t.metrics['waited_s']:.3f} s in {t.metrics['waits']} calls")
    if sum(len(t.turns) for t in trajectories) < 3 * len(trajectories):
        raise RuntimeError("most episodes ended before their third turn")


def result(rounds: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """The best round of each side, without and with waits, after the warm-ups, and what the waits add.

    Raises:
        RuntimeError: two rounds differ in tokens or calls.
    """
    work = {(side["tokens"], side["calls"]) for pair in rounds for side in pair}
    if len(work) != 1:
        raise RuntimeError(f"all rounds must have the same tokens and calls, but had {sorted(work)}")
    without, waiting = (min(side["seconds"] for side in sides[WARM_UPS:]) for sides in zip(*rounds, strict=True))
    tokens, calls = work.pop()
    added = waiting / without - 1
    return {"tokens": tokens, "calls": calls, "without_s": without, "waiting_s": waiting, "added": added}


def measure(threads: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run both sides in turn."""
    with tempfile.TemporaryDirectory() as folder:
        side = Side(serve, str(make_model("tiny", Path(folder), END_TOKENS)), threads, settings)
        rounds = []
        for number in range(WARM_UPS + ROUNDS):
            rounds.append((side.ask(0.0), side.ask(WAIT_S)))
            without, waiting = (f"{found['seconds']:.2f} s" for found in rounds[-1])
            print(f"round {number}: {without} without waits, {waiting} with them", flush=True)
        side.close()
    return result(rounds)


def save(row: dict[str, Any], path: Path) -> None:
    """Write the result as JSON and as a table beside it."""
    line = (
        f"| {row['episodes']} | {row['calls']} | {row['tokens']:,} | {row['without_s']:.2f} s "
        f"| {row['waiting_s']:.2f} s | {row['added']:.1%} | less than {REQUIRED:.0%} | {short(row['commit'])} |\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(row, indent=1) + "\n")
    write_atomic(path.with_suffix(".md"), ABOUT + line)


def main() -> None:
    """Measure, write the result, and fail where the waits add too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the engine")
    parser.add_argument("--env-threads", type=int, help="rollout.env_threads; its default without")
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help="JSON of the result; the table is written beside it"
    )
    options = parser.parse_args()
    settings = {"env_threads": options.env_threads} if options.env_threads else {}
    row = measure(options.threads, settings)
    env_threads = rollout_config(1, **settings).env_threads
    about = {"episodes": EPISODES, "wait_s": WAIT_S, "threads": options.threads, "env_threads": env_threads}
    save(row | about | {"required": REQUIRED, "commit": versions()["git"] or "unknown"}, options.output)
    found = f"{row['calls']} waits of {1000 * WAIT_S:.0f} ms add {row['added']:.1%} to the time of {EPISODES} episodes"
    if not row["added"] < REQUIRED:
        raise SystemExit(f"{found}, which must be less than {REQUIRED:.0%}")
    print(f"{found} (required: less than {REQUIRED:.0%})")


if __name__ == "__main__":
    main()
