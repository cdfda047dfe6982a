"""`make study-math`, `make study-tool`: every arm over several seeds on the settings as shipped, with intervals.

Resumable: finished arms are kept in runs/study-TASK, an interrupted one is begun again. What it finds is written to
docs/results/TASK.md and .json, with the command that made it.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console as RichConsole

from configs.run import RunConfig
from examples.arms import ARMS, BUILT, arm_config, is_finished, run_arm
from examples.ctrl_c import until_ctrl_c
from examples.toy.ladder import ensure_rung
from orchestrator.bootstrap import Interval, interval
from orchestrator.compare import Arm, change, plot
from orchestrator.console import Console
from orchestrator.launchers import launch
from orchestrator.run_directory import write_atomic

CLAIMED = ("rejuvenated", "over")
MEASURES = ("greedy", "pass@k", "signal", "entropy")


def run_all(task: str, seeds: list[int], folder: Path, names: list[str], rich: RichConsole) -> None:
    """Run every arm that is not there yet, seed by seed, on workers that are started once."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    for name in names:
        if name in BUILT:
            ensure_rung(task, BUILT[name], folder / name)
    first = [name for name in names if name in CLAIMED]  # the claims are settled before the controls
    order = [(seed, arm) for part in (first, [n for n in names if n not in first]) for seed in seeds for arm in part]
    configs = {(seed, arm): study_config(task, arm, seed, folder) for seed, arm in order}
    if all(is_finished(config) for config in configs.values()):
        return
    with launch(arm_config(task, "over", folder / "unused", []), folder) as workers:
        for (seed, arm), config in configs.items():
            run_arm(config, workers, Console(rich, label=f"seed {seed}, {arm}"))


def study_config(task: str, arm: str, seed: int, folder: Path) -> RunConfig:
    """The configuration of one arm under one seed."""
    return arm_config(task, arm, folder / arm_folder(arm, seed), [f"seed={seed}"], folder)


def arm_folder(arm: str, seed: int) -> str:
    """Run directory of an arm within the study."""
    return f"{arm.replace(' ', '-')}-seed{seed}"


def matrices(arms: list[Arm], set_name: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """[seeds, problems] before and after RL."""
    before = np.array([a.evaluations[0].by_name(set_name).per_task(measure) for a in arms])
    after = np.array([a.evaluations[-1].by_name(set_name).per_task(measure) for a in arms])
    return before, after


def claims(arms: dict[str, dict[int, Arm]], set_name: str) -> dict[str, Interval]:
    """The three claims of the method, each an interval over seeds and problems, on greedy accuracy.

    Seeds that both arms have finished are compared.
    """
    seeds = sorted(arms["rejuvenated"].keys() & arms["over"].keys())
    before, after = matrices([arms["rejuvenated"][seed] for seed in seeds], set_name, "greedy")
    over_before, over_after = matrices([arms["over"][seed] for seed in seeds], set_name, "greedy")
    return {
        "gain of rejuvenated": interval(after - before),
        "gain of rejuvenated minus gain of over": interval((after - before) - (over_after - over_before)),
        "endpoint of rejuvenated minus endpoint of over": interval(after - over_after),
    }


def mean_changes(arms: list[Arm], set_name: str, measure: str) -> tuple[float, float, float, float]:
    """Before, after, gain and area, means over seeds."""
    found = [change(a.on(set_name), measure) for a in arms]
    rows = np.array([(c.before.mean, c.after.mean, c.gain.mean, c.area) for c in found])
    before, after, gain, area = rows.mean(axis=0).tolist()
    return before, after, gain, area


def report(
    task: str, arms: dict[str, dict[int, Arm]], command: str, versions: list[dict[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """The study as Markdown and as plain values.

    Args:
        task: which toy.
        arms: finished runs by arm and seed.
        command: what made them.
        versions: of the packages and the commits that made them.
    """
    sets = next(iter(arms["rejuvenated"].values())).evaluations[0].sets
    lines = [
        f"# Study: {task} toy",
        "",
        f"Made by `{command}`, settings as shipped. Means over the seeds that are finished; the gain with its 95 %",
        "bootstrap interval over seeds and problems. RL got the same tasks, seeds and settings in every arm.",
        "",
    ]
    values: dict[str, Any] = {"command": command, "versions": versions, "sets": {}}
    for s in sets:
        kind = "in distribution" if s.kind == "id" else "out of distribution"
        lines += [f"## {s.name} ({kind}, {len(s.greedy)} problems)", ""]
        lines += ["| arm | seeds | measure | before RL | after RL | gain | area |", "|---|---|---|---|---|---|---|"]
        found: dict[str, Any] = {"arms": {}, "claims": {}}
        values["sets"][s.name] = found
        for arm, runs in arms.items():
            found["arms"][arm] = {"seeds": sorted(runs)}
            for measure in MEASURES:
                label = measure.replace("@k", f"@{s.k}")
                row, entry = measured(list(runs.values()), s.name, measure)
                lines.append(f"| {arm} | {len(runs)} | {label} | {row} |")
                found["arms"][arm][label] = entry
        lines += ["", "| claim (greedy accuracy) | mean | 95 % interval | excludes 0 |", "|---|---|---|---|"]
        for claim, band in claims(arms, s.name).items():
            verdict = "yes" if band.excludes_zero() else "no"
            lines.append(f"| {claim} | {band.mean:+.3f} | [{band.low:+.3f}, {band.high:+.3f}] | {verdict} |")
            found["claims"][claim] = asdict(band)
        lines.append("")
    return "\n".join(lines), values


def made_by(run_dirs: list[Path]) -> list[dict[str, Any]]:
    """What the run directories say of the packages and the commit that made them; one entry where all agree."""
    found: list[dict[str, Any]] = []
    for run_dir in run_dirs:
        versions = json.loads((run_dir / "versions.json").read_text())
        versions.pop("command", None)
        if versions not in found:
            found.append(versions)
    return found


def measured(runs: list[Arm], set_name: str, measure: str) -> tuple[str, dict[str, float]]:
    """One measure of one arm: the cells of its table row, and its values."""
    before, after, gain, area = mean_changes(runs, set_name, measure)
    entry = {"before": before, "after": after, "gain": gain, "area": area}
    shown = f"{gain:+.3f}"
    if measure != "entropy":  # one figure per evaluation: no problems to draw from
        first, last = matrices(runs, set_name, measure)
        band = interval(last - first)
        shown += f" [{band.low:+.3f}, {band.high:+.3f}]"
        entry |= {"gain_low": band.low, "gain_high": band.high}
    return f"{before:.3f} | {after:.3f} | {shown} | {area:.3f}", entry


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["math", "tool"])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run directories go")
    parser.add_argument("--arms", default=",".join(ARMS), help="arms to run, by name, with commas")
    parser.add_argument("--output", type=Path, default=Path("docs/results"), help="where the report goes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    rich = RichConsole(highlight=False)
    names = options.arms.split(",")
    folder = options.runs.absolute() / f"study-{options.task}"
    seeds = list(range(options.seeds))
    run_all(options.task, seeds, folder, names, rich)
    arms = {
        arm: found
        for arm in ARMS
        if (
            found := {
                seed: Arm.read(folder / arm_folder(arm, seed), arm)
                for seed in seeds
                if is_finished(study_config(options.task, arm, seed, folder))
            }
        )
    }
    if not set(CLAIMED) <= set(arms):
        parser.exit(message="the report needs at least the arms rejuvenated and over\n")
    used = [folder / arm_folder(arm, seed) for arm, runs in arms.items() for seed in runs]
    text, values = report(options.task, arms, f"make study-{options.task}", made_by(used))
    options.output.mkdir(parents=True, exist_ok=True)
    write_atomic(options.output / f"{options.task}.md", text)
    write_atomic(options.output / f"{options.task}.json", json.dumps(values, indent=1))
    plot(
        [next(iter(runs.values())) for runs in arms.values()],
        options.output / f"{options.task}.png",
        f"{options.task} toy, seed 0",
    )
    rich.print(text)


if __name__ == "__main__":
    until_ctrl_c(main, "The same command goes on with what is missing.")
