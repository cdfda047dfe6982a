"""Checkpoints of a run: written whole or not at all, verified by hash before anything in them is read."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from orchestrator.run_directory import step_of, write_atomic
from orchestrator.workers import Workers


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands. Tasks and sampling seeds are pure functions of the step: this is all there is to restore."""

    step: int
    """Training steps completed."""
    policy_version: int
    """Number of publications so far."""


def save(workers: Workers, run_dir: Path, state: RunState, files: dict[str, bytes], keep: int) -> Path:
    """Write checkpoints/step_N (learner state of each rank, policy, manifest); delete all but the newest `keep`."""
    folder = run_dir / "checkpoints"
    target = folder / f"step_{state.step:06d}"
    staging = folder / f".step_{state.step:06d}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "learner").mkdir(parents=True)
    workers.save(str(staging / "learner"))
    workers.export(str(staging / "policy"), files)
    write_atomic(staging / "state.json", json.dumps(asdict(state)))
    write_atomic(staging / "manifest.json", json.dumps(manifest(staging), indent=1))
    flush(staging)
    shutil.rmtree(target, ignore_errors=True)  # only there when a run resumed from before it
    os.replace(staging, target)
    sync(folder)
    for old in sorted(folder.glob("step_*"), key=step_of)[:-keep]:
        shutil.rmtree(old)
    return target


def manifest(directory: Path) -> dict[str, str]:
    """xxh3-128 of every file below `directory` but the manifest itself."""
    return {
        str(file.relative_to(directory)): digest(file)
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file != directory / "manifest.json"
    }


def digest(file: Path) -> str:
    """xxh3-128 of a file's bytes."""
    state = xxhash.xxh3_128()
    with open(file, "rb") as handle:
        while block := handle.read(1 << 22):
            state.update(block)
    return state.hexdigest()


def flush(directory: Path) -> None:
    """Force `directory` and all that is below it onto the disk."""
    for path in (directory, *directory.rglob("*")):
        sync(path)


def sync(path: Path) -> None:
    """Force one file, or a directory's list of names, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint, or None. Partial ones have other names and are passed over."""
    found = sorted((run_dir / "checkpoints").glob("step_*"), key=step_of)
    return found[-1] if found else None


def verify(checkpoint: Path) -> RunState:
    """Check every file against the manifest and read the state.

    Raises:
        RuntimeError: a file is missing, extra or changed. Learner states are unpickled: nothing unverified is loaded.
    """
    try:
        expected = json.loads((checkpoint / "manifest.json").read_text())
    except (OSError, ValueError):
        expected = {"manifest.json": "unreadable"}
    found = manifest(checkpoint)
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise RuntimeError(
            f"checkpoint {checkpoint} does not match its manifest at {wrong}: it was changed or damaged. "
            "Remove this checkpoint to resume from the one before it."
        )
    return RunState(**json.loads((checkpoint / "state.json").read_text()))
