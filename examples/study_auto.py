"""`make study-auto`: does `alpha: auto, rho: auto` end where the best fixed setting ends after RL?

Fixed settings and auto start RL with the same seeds, tasks and settings, on SFT ladders, RL tasks and seeds that were
not looked at for the rule. Resumable: finished runs are kept in runs/study-auto. What it finds is written to
docs/results/auto.md and .json.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console as RichConsole

from configs.run import RunConfig
from examples.arms import arm_config, is_finished, run_arm
from examples.ctrl_c import until_ctrl_c
from examples.study import made_by, matrices
from examples.toy.ladder import Ladder, Rung, ensure_rung
from orchestrator.bootstrap import interval
from orchestrator.choosing import CHOICE_FILE
from orchestrator.compare import Arm
from orchestrator.console import Console
from orchestrator.launchers import launch
from orchestrator.run_directory import write_atomic

AUTO = "auto"
FIXED = [(1.0, 0.0), *((alpha, rho) for alpha in (0.7, 0.5, 0.3) for rho in (0.0, 0.005))]
"""Alpha and rho of the fixed settings; the first keeps the SFT checkpoint."""
WITHIN = 0.05
"""How far below the best fixed setting auto may end, as a share of it."""
SET = "heldout"
RUNG = "over"
COMMON = [
    "launcher=inline",
    "algorithm.steps=20",
    "learner.threads=1",
    "rollout.threads=1",
    "evaluation.every_steps=0",
    "checkpoint.every_steps=0",
    "logging.tensorboard=false",
    "logging.trajectories=false",
    f"evaluation.sets=[{{name: {SET}, kind: id, tasks: 300, sampled_tasks: 10, kwargs: {{split: heldout}}}}]",
]
"""Of every run: one evaluation before RL and one after, on more tasks than the toys' own configurations have; all in
one process on one thread."""


@dataclass(frozen=True, slots=True)
class Case:
    """A base, an over-trained SFT checkpoint, and an RL task."""

    task: str
    """The toy whose base, configuration and shipped SFT checkpoint it takes."""
    about: str
    """What it is, for the report."""
    seeds: tuple[int, ...]
    """Of RL, and of what auto draws."""
    overrides: tuple[str, ...] = ()
    """What RL's task is, where it is another than the configuration's."""
    ladder: Ladder | None = None
    """An SFT run of its own, whose rung `RUNG` is the checkpoint to repair; null: the shipped one."""


CASES = {
    "math": Case(
        "math",
        "an SFT ladder on 48 problems of three operations, operands up to 30, 600 steps; RL on problems of three to "
        "five operations, operands up to 50",
        (201, 202, 203, 204, 205),
        ("environment.kwargs={operations_min: 3, operations_max: 5, operand_max: 50}",),
        Ladder(
            "rejuvenate/Arithmetic-v0",
            {"operations_min": 3, "operations_max": 3, "operand_max": 30},
            48,
            2e-3,
            100,
            seed=11,
            rungs={RUNG: Rung(600)},
        ),
    ),
    "tool": Case(
        "tool",
        "an SFT ladder on 48 tasks of one to three look-ups, 600 steps; RL on tasks of three to five",
        (201, 202),
        ('environment.kwargs={hops_min: 3, hops_max: 5, error_text: "?"}',),
        Ladder(
            "rejuvenate/Lookup-v0",
            {"hops_min": 1, "hops_max": 3},
            48,
            1e-3,
            betas=(0.9, 0.98),
            seed=2000,
            rungs={RUNG: Rung(600)},
        ),
    ),
}


@dataclass(slots=True)
class Arms:
    """The runs of one case, of the seeds of which all are finished."""

    seeds: list[int] = field(default_factory=list)
    fixed: dict[tuple[float, float], list[Arm]] = field(default_factory=dict)
    """By alpha and rho, one per seed."""
    auto: list[Arm] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)
    """Of auto, one per seed: its choice.json."""
    run_dirs: list[Path] = field(default_factory=list)


def planned(names: list[str], folder: Path) -> Iterator[tuple[str, tuple[float, float] | None, RunConfig]]:
    """Case, setting (None: auto) and configuration of every run; one seed of every case before the next."""
    for number in range(max(len(CASES[name].seeds) for name in names)):
        for name in names:
            for setting in (None, *FIXED):
                if number < len(CASES[name].seeds):
                    yield name, setting, run_config(name, setting, CASES[name].seeds[number], folder)


def run_config(name: str, setting: tuple[float, float] | None, seed: int, folder: Path) -> RunConfig:
    """The configuration of one run; its directory's name says which it is."""
    case, (alpha, rho) = CASES[name], setting or (AUTO, AUTO)
    words = AUTO if setting is None else f"alpha{alpha}-rho{rho}"
    changes = [f"seed={seed}", f"rejuvenation.alpha={alpha}", f"rejuvenation.rho={rho}"]
    if case.ladder is not None:
        changes.append(f"model.sft={folder / f'{name}-{RUNG}'}")
    run_dir = folder / f"{name}-{words}-seed{seed}"
    return arm_config(case.task, "rejuvenated", run_dir, [*COMMON, *case.overrides, *changes])


def run_missing(names: list[str], folder: Path, rich: RichConsole, deadline: float) -> bool:
    """Run what is not there yet on workers that are started once; false where the time ended first."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for name in names:
        if (ladder := CASES[name].ladder) is not None:
            ensure_rung(CASES[name].task, RUNG, folder / f"{name}-{RUNG}", ladder)
    missing = [config for _, _, config in planned(names, folder) if not is_finished(config)]
    if not missing or time.monotonic() > deadline:
        return not missing
    with launch(missing[0], folder) as workers:
        for config in missing:
            if time.monotonic() > deadline:
                return False
            label, started = Path(config.run_dir).name, time.monotonic()
            run_arm(config, workers, Console(rich, label=label))
            rich.print(f"{label}: {time.monotonic() - started:.0f} s")
    return True


def read(name: str, folder: Path) -> Arms:
    """The finished seeds of a case."""
    found = Arms()
    for seed in CASES[name].seeds:
        configs = {setting: run_config(name, setting, seed, folder) for setting in (None, *FIXED)}
        if not all(is_finished(config) for config in configs.values()):
            continue
        found.seeds.append(seed)
        run_dirs = {setting: Path(config.run_dir) for setting, config in configs.items()}
        found.run_dirs += run_dirs.values()
        found.auto.append(Arm.read(run_dirs[None]))
        found.choices.append(json.loads((run_dirs[None] / CHOICE_FILE).read_text()))
        for setting in FIXED:
            found.fixed.setdefault(setting, []).append(Arm.read(run_dirs[setting]))
    return found


def after_rl(arms: list[Arm]) -> np.ndarray:
    """[seeds, problems] greedy accuracy after RL."""
    return matrices(arms, SET, "greedy")[1]


def row(label: str, arms: list[Arm]) -> tuple[str, dict[str, Any]]:
    """One line of a case's table, and its values."""
    before, after = matrices(arms, SET, "greedy")
    passes, _ = matrices(arms, SET, "pass@k")
    band = interval(after)
    values = {
        "seeds": len(arms),
        "greedy_before": float(before.mean()),
        "pass_at_k_before": float(passes.mean()),
        "greedy_after": asdict(band),
        "greedy_after_by_seed": after.mean(axis=1).tolist(),
    }
    each = " ".join(f"{value:.3f}" for value in values["greedy_after_by_seed"])
    line = (
        f"| {label} | {before.mean():.3f} | {passes.mean():.3f} | {band.mean:.3f} [{band.low:.3f}, {band.high:.3f}] | "
        f"{each} |"
    )
    return line, values


def picked_on_other_seeds(fixed: dict[tuple[float, float], list[Arm]]) -> np.ndarray | None:
    """[seeds, problems] greedy accuracy after RL of the setting that was the best on the other seeds.

    Picked and shown with the same figures, the best of many settings looks better than it is; this is without that.
    Null with a single seed.
    """
    found = np.stack([after_rl(runs) for runs in fixed.values()])  # [settings, seeds, problems]
    by_seed = found.mean(axis=2)
    seeds = range(by_seed.shape[1])
    if len(seeds) < 2:
        return None
    best = [np.delete(by_seed, seed, axis=1).mean(axis=1).argmax() for seed in seeds]
    return np.stack([found[setting, seed] for seed, setting in enumerate(best)])


def of_case(name: str, arms: Arms) -> tuple[list[str], dict[str, Any]]:
    """One case as Markdown lines and as plain values."""
    case = CASES[name]
    lines = [f"## {name}: {case.about}", "", f"RL seeds {', '.join(map(str, arms.seeds))}.", ""]
    k = arms.auto[0].evaluations[0].by_name(SET).k
    lines += [f"| setting | greedy before | pass@{k} before | greedy after RL | by seed |", "|---|---|---|---|---|"]
    values: dict[str, Any] = {"about": case.about, "seeds": arms.seeds, "fixed": [], "choices": arms.choices}
    for (alpha, rho), runs in arms.fixed.items():
        line, entry = row(f"alpha {alpha:g}, rho {rho:g}", runs)
        lines.append(line)
        values["fixed"].append({"alpha": alpha, "rho": rho, **entry})
    line, values["auto"] = row("**auto**", arms.auto)
    best = max(arms.fixed, key=lambda setting: after_rl(arms.fixed[setting]).mean())
    top, own = float(after_rl(arms.fixed[best]).mean()), float(after_rl(arms.auto).mean())
    gap = interval(after_rl(arms.auto) - after_rl(arms.fixed[best]))
    within = own >= (1.0 - WITHIN) * top
    values |= {
        "best_fixed": {"alpha": best[0], "rho": best[1]},
        "auto_over_best": own / top,
        "auto_minus_best": asdict(gap),
        "within_5_percent": within,
    }
    lines += [line, ""]
    lines += [f"- seed {seed}: {c['sentence']}." for seed, c in zip(arms.seeds, arms.choices, strict=True)]
    lines += [
        "",
        f"The best fixed setting is alpha {best[0]:g}, rho {best[1]:g} with {top:.3f}; auto ends at {own:.3f}, "
        f"{own / top:.1%} of it (difference {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]): "
        f"{'within' if within else '**not** within'} 5 %.",
        "",
    ]
    if (other := picked_on_other_seeds(arms.fixed)) is not None:
        gap = interval(after_rl(arms.auto) - other)
        values["picked_on_other_seeds"] = {
            "greedy_after": float(other.mean()),
            "auto_over_it": own / float(other.mean()),
            "auto_minus_it": asdict(gap),
        }
        lines += [
            f"With the best fixed setting picked for each seed on the other seeds: {other.mean():.3f}; auto has "
            f"{own / other.mean():.1%} of it (difference {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]).",
            "",
        ]
    return lines, values


def report(found: dict[str, Arms]) -> tuple[str, dict[str, Any]]:
    """The study as Markdown and as plain values."""
    command = "make study-auto"
    lines = [
        "# Study: automatic alpha and rho",
        "",
        f"Made by `{command}`. Greedy accuracy on 300 held-out tasks before and after 20 steps of RL, means over the",
        "seeds that are finished, with 95 % bootstrap intervals over seeds and tasks; every run of a case has the same",
        "tasks, seeds and settings of RL. The best of the fixed settings is picked by the same figures it is shown",
        "with, which favours it; below stands also what it ends at if it is picked for each seed on the other seeds.",
        "`auto` tries its candidates in the environment before each run, on training tasks drawn by that run's seed;",
        "for the rule see [rejuvenation.md](../rejuvenation.md#automatic-alpha-and-rho). It was designed on other",
        "ladders, tasks and seeds: the math toy as it ships, and those that an earlier rule was tried on.",
        "",
    ]
    versions = made_by([run_dir for arms in found.values() for run_dir in arms.run_dirs])
    values: dict[str, Any] = {"command": command, "versions": versions, "cases": {}}
    for name, arms in found.items():
        part, values["cases"][name] = of_case(name, arms)
        lines += part
    commits = sorted({str(version.get("git")) for version in versions})
    lines += [f"Commits of the runs: {', '.join(commits)}.", ""]
    return "\n".join(lines), values


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="cases to run, by name, with commas")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run directories go")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run later than this")
    parser.add_argument("--output", type=Path, default=Path("docs/results"), help="where the report goes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    rich = RichConsole(highlight=False)
    names, folder = options.cases.split(","), options.runs.absolute() / "study-auto"
    deadline = time.monotonic() + 60 * options.minutes
    complete = run_missing(names, folder, rich, deadline)
    found = {name: read(name, folder) for name in names}
    if not all(arms.seeds for arms in found.values()):
        parser.exit(3, "no seed of every case is finished yet: run it again\n")
    text, values = report(found)
    options.output.mkdir(parents=True, exist_ok=True)
    write_atomic(options.output / "auto.md", text)
    write_atomic(options.output / "auto.json", json.dumps(values, indent=1))
    rich.print(text)
    if not complete:
        parser.exit(3, "not all runs are finished: run it again\n")


if __name__ == "__main__":
    until_ctrl_c(main, "The same command goes on with what is missing.")
