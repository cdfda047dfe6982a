"""One run from start to end: rejuvenate, load, publish version 0, evaluate, train, evaluate, export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.loader import as_mapping, load, to_yaml
from configs.run import RunConfig
from orchestrator import checkpoints, loggers, loop, run_directory
from orchestrator.checkpoints import RunState
from orchestrator.choosing import choose_repair
from orchestrator.console import Console, diagnosis
from orchestrator.gate import pass_gate
from orchestrator.launchers import launch
from orchestrator.parcel import Parcel
from orchestrator.workers import Workers

MAY_DIFFER_ON_RESUME = {
    "resume",
    "run_dir",
    "cluster",
    "launcher",
    "logging",
    "checkpoint",
    "learner.micro_batch_tokens",
}
"""Fields and sections that a resumed run may change, and all time limits; any other would make it a different run.

Another `learner.micro_batch_tokens` adds up the same gradients in another order: equal but for rounding.
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Where a run ended."""

    run_dir: Path
    state: RunState
    report: dict
    """The rejuvenation's report; empty where RL started from a checkpoint as it was."""


def run(config: RunConfig, console: Console) -> Result:
    """Start the workers, do the run, end them."""
    run_dir = run_directory.resolve_run_dir(config)
    open_run(config, run_dir)
    with launch(config, run_dir) as workers:
        return run_on(config, workers, run_dir, console)


def open_run(config: RunConfig, run_dir: Path) -> None:
    """Create the run directory, or check that the run in it can be resumed with this configuration.

    Raises:
        ConfigError: it holds something else, or `resume` and the configuration changed.
    """
    run_directory.check_free(run_dir, config.resume)
    if config.resume:
        before = load([run_dir / "config.yaml"])
        check_same(config, before)
        if config.algorithm != before.algorithm:  # the run is made longer
            run_directory.write_atomic(run_dir / "config.yaml", to_yaml(replace(before, algorithm=config.algorithm)))
    else:
        run_directory.create(run_dir, config)


def check_same(config: RunConfig, before: RunConfig) -> None:
    """Raise `ConfigError` at the first field in which a resumed run differs from the run it continues."""
    now, then = leaves(as_mapping(config)), leaves(as_mapping(before))
    if config.algorithm.steps >= before.algorithm.steps:  # a run may be made longer
        now["algorithm.steps"] = then["algorithm.steps"]
    for field in sorted(now.keys() | then.keys()):
        section = field.partition(".")[0]
        is_limit = field.endswith("timeout_s") and section != "environment"
        if {field, section} & MAY_DIFFER_ON_RESUME or is_limit:
            continue
        if now.get(field) != then.get(field):
            raise ConfigError(
                field,
                f"must be as in the run that is resumed ({then.get(field)!r})",
                now.get(field),
                "Give the same files and overrides, or start a new run in another run_dir.",
            )


def leaves(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted field -> value; lists are values."""
    found: dict[str, Any] = {}
    for name, value in mapping.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def run_on(config: RunConfig, workers: Workers, run_dir: Path, console: Console) -> Result:
    """Do a run on workers that exist already (a demo or study does one after the other).

    The run directory exists (`open_run`).

    Raises:
        ConfigError: the run needs workers that were launched otherwise.
    """
    workers.check_fits(config)
    workers.check_files(config)
    parcel, state = start_policy(config, workers, run_dir, console)
    recorded = loggers.Loggers(config.logging, run_dir, state.step)
    try:
        if state.step == 0:
            with console.stage("evaluated before RL"):
                loop.evaluate(config, workers, run_dir, 0)
        state = loop.train(config, workers, run_dir, parcel.files, state, recorded, console)
        with console.stage("evaluated after RL"):
            loop.evaluate(config, workers, run_dir, state.step)
    finally:
        console.end()
        recorded.close()
    workers.export(str(run_dir / "final"), parcel.files)
    return Result(run_dir, state, parcel.report)


def start_policy(config: RunConfig, workers: Workers, run_dir: Path, console: Console) -> tuple[Parcel, RunState]:
    """Give learners and engines the policy to go on from: version 0, or the newest checkpoint of a resumed run."""
    verb = "rejuvenated" if config.model.start == "rejuvenated" else f"read the {config.model.start} checkpoint"
    config, choice = choose_repair(config, workers, run_dir, console)
    with console.stage(verb):
        parcel = workers.prepare(config, str(run_dir / "rejuvenated"), choice)
    if parcel.report:
        for line in diagnosis(parcel.report):
            console.explain(line)
        if config.rejuvenation.gate:
            with console.stage("gate passed"):
                parcel, decision = pass_gate(config, workers, parcel, run_dir)
            console.explain(decision.sentence)
    with console.stage("weights handed to the learners"):
        workers.load(parcel, config)
    state = RunState(step=0, policy_version=0)
    newest = checkpoints.latest(run_dir) if config.resume else None
    if newest is not None:
        state = checkpoints.verify(newest)
        workers.restore(str(newest / "learner"))
        console.say(f"resumed after training step {state.step}")
    if config.resume:
        loggers.set_aside_after(run_dir, state.step)
        run_directory.set_aside_after(run_dir, state.step)
    with console.stage("engines ready"):
        workers.publish(state.policy_version)
    return replace(parcel, handles=[]), state
