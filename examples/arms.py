"""Arms of a comparison on a toy: runs that differ in the starting checkpoint only, on workers that are started once."""

from __future__ import annotations

import shutil
from pathlib import Path

from configs.loader import load
from configs.run import RunConfig
from orchestrator.console import Console
from orchestrator.running import open_run, run_on
from orchestrator.workers import Workers

TASKS = {"math": "configs/math_toy.yaml", "tool": "configs/tool_toy.yaml"}

ARMS: dict[str, list[str]] = {
    "rejuvenated": ["model.start=rejuvenated"],
    "over": ["model.start=sft"],
    "mod": ["model.start=sft", "model.sft={rungs}/mod"],
    "dft": ["model.start=sft", "model.sft={rungs}/dft"],
    "base": ["model.start=base"],
    "fusion only": ["model.start=rejuvenated", "rejuvenation.steps=[fusion.linear]"],
    "random reset": ["model.start=rejuvenated", "rejuvenation.steps=[fusion.linear,reset.random]"],
}
"""Arm -> what it changes. `{rungs}` is the folder of the SFT checkpoints that do not ship (`BUILT`)."""

BUILT = {"mod": "sft_mod", "dft": "sft_dft"}
"""Arm -> the rung of the toy's ladder that it starts from: `ensure_rung` builds it as `{rungs}/ARM`."""


def arm_config(task: str, arm: str, run_dir: Path, extra: list[str], rungs: Path | None = None) -> RunConfig:
    """The configuration of one arm: the task's file, what the arm changes, then `extra` overrides."""
    changes = [text.format(rungs=rungs) for text in ARMS[arm]]
    return load([TASKS[task]], [*changes, f"run_dir={run_dir}", *extra])


def is_finished(config: RunConfig) -> bool:
    """Whether the run directory holds this very run, to its end."""
    run_dir = Path(config.run_dir)
    return (run_dir / "final").is_dir() and load([run_dir / "config.yaml"]) == config


def run_arm(config: RunConfig, workers: Workers, console: Console) -> Path:
    """Run an arm, unless its run directory holds it already; one that was interrupted is begun again.

    Raises:
        ConfigError: the run directory holds a run of another configuration.
    """
    run_dir = Path(config.run_dir)
    if is_finished(config):
        console.say("already there")
        return run_dir
    if (run_dir / "config.yaml").is_file() and load([run_dir / "config.yaml"]) == config:
        shutil.rmtree(run_dir)  # what an interrupted arm of the same comparison left
    open_run(config, run_dir)
    run_on(config, workers, run_dir, console)
    return run_dir
