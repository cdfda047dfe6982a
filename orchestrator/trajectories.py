"""Trajectories on disk: one JSONL per training step, one line per episode."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from policies.trajectory import Trajectory


def write(batch: Sequence[Trajectory], run_dir: Path, step: int) -> None:
    """Write trajectories/step_N.jsonl, whole or not at all."""
    target = path(run_dir, step)
    staging = target.with_name(f".{target.name}.partial")
    with open(staging, "w") as handle:
        handle.writelines(json.dumps(t.to_json()) + "\n" for t in batch)
    os.replace(staging, target)


def read(run_dir: Path, step: int) -> Iterator[Trajectory]:
    """The episodes of a training step."""
    with open(path(run_dir, step)) as handle:
        for line in handle:
            yield Trajectory.from_json(json.loads(line))


def path(run_dir: Path, step: int) -> Path:
    """File of a training step."""
    return run_dir / "trajectories" / f"step_{step:06d}.jsonl"
