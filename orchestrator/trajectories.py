"""Trajectories on disk: one JSONL per training step, one line per episode."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from policies.trajectory import Trajectory


def write(batch: Sequence[Trajectory], run_dir: Path, step: int) -> None:
    """Write trajectories/step_N.jsonl, whole or not at all."""
    target = path(run_dir, step)
    staging = target.with_name(f".{target.name}.partial")
    with open(staging, "w") as handle:
        handle.writelines(line(t) + "\n" for t in batch)
    os.replace(staging, target)


def line(trajectory: Trajectory) -> str:
    """A trajectory as JSON. Environments put anything into tasks and messages: what JSON does not know is converted."""
    try:
        return json.dumps(trajectory.to_json(), default=plain)
    except (TypeError, ValueError):  # keys that are no text, or objects that cannot be copied
        row = {name: getattr(trajectory, name) for name in Trajectory.__dataclass_fields__}
        return json.dumps(plain(row | {"turns": [asdict(turn) for turn in trajectory.turns]}))


def plain(value: Any) -> Any:
    """A value in JSON's types: numpy's as plain numbers and lists, keys as text, and `repr` of what is left."""
    if isinstance(value, str | bool | int | float | None) and not isinstance(value, np.generic):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return repr(value)


def read(run_dir: Path, step: int) -> Iterator[Trajectory]:
    """The episodes of a training step."""
    with open(path(run_dir, step)) as handle:
        for line in handle:
            yield Trajectory.from_json(json.loads(line))


def path(run_dir: Path, step: int) -> Path:
    """File of a training step."""
    return run_dir / "trajectories" / f"step_{step:06d}.jsonl"
