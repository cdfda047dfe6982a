"""`make demo`: the main job on both toys, from the over-trained SFT checkpoint as it is and from its repair.

Engines and learners are started once. Each arm is an ordinary run with a run directory of its own.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from rich.console import Console as RichConsole

from examples.arms import ARMS, arm_config, run_arm
from examples.ctrl_c import until_ctrl_c
from orchestrator.compare import Arm, plot
from orchestrator.console import Console
from orchestrator.evaluation_table import LEGEND, table
from orchestrator.launchers import launch

SHOWN = ("over", "rejuvenated")
TITLES = {"math": "math (arithmetic chains)", "tool": "tool use (look-ups in a hidden map)"}
QUICK = [
    "algorithm.steps=4",
    "algorithm.prompts_per_step=16",
    "evaluation.every_steps=2",
    "checkpoint.every_steps=0",
]
QUICK_TASKS = 16


def quick_sets(task: str) -> list[str]:
    """The task sets of a configuration, with few tasks each."""
    config = arm_config(task, "over", Path("unused"), [])
    sets = [
        f"{{name: {s.name}, kind: {s.kind}, tasks: {QUICK_TASKS}, kwargs: {dict(s.kwargs)}}}"
        for s in config.evaluation.sets
    ]
    return [f"evaluation.sets=[{', '.join(sets)}]"]


def new_folder(root: Path) -> Path:
    """The next free root/demo-N: an earlier demo's results stay."""
    number = 1
    while (root / f"demo-{number}").exists():
        number += 1
    folder = root / f"demo-{number}"
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    """Run both tasks, both arms, and show what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps: shows the way, not the effect")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run directories go")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE for every run, as for `rejuvenate run`")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    started = time.monotonic()
    rich = RichConsole(highlight=False)
    folder = new_folder(options.runs.absolute())
    assert set(SHOWN) <= set(ARMS)

    first = arm_config("math", SHOWN[0], folder / "unused", options.overrides)
    rich.print(
        "An over-trained SFT checkpoint, as it is and rejuvenated, then RL from both: same seed, data, settings."
    )
    arms: dict[str, list[Arm]] = {}
    (folder / "logs").mkdir()
    with launch(first, folder) as workers:
        for task, title in TITLES.items():
            rich.rule(title)
            extra = [*options.overrides, *([*QUICK, *quick_sets(task)] if options.quick else [])]
            for arm in SHOWN:
                config = arm_config(task, arm, folder / f"{task}-{arm}", extra)
                run_dir = run_arm(config, workers, Console(rich, label=f"{task}, {arm}"))
                arms.setdefault(task, []).append(Arm.read(run_dir, arm))

    for task, found in arms.items():
        rich.rule(f"results: {TITLES[task]}")
        rich.print(table(found))
        plot(found, folder / f"{task}.png", TITLES[task])
    rich.print(LEGEND)
    if options.quick:
        rich.print("QUICK: a few steps on a few tasks show that everything works; they say nothing about the effect.")
    rich.print(f"plots: {folder / 'math.png'}", f"       {folder / 'tool.png'}", sep="\n", soft_wrap=True)
    rich.print(f"run directories: {folder}", soft_wrap=True)
    rich.print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    until_ctrl_c(main, "The next `make demo` starts afresh, in a new folder.")
