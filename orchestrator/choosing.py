"""`rejuvenation.alpha: auto` and `rejuvenation.rho: auto` in a run: candidates are tried in the environment itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.text import Text

from configs.run import RunConfig
from orchestrator.console import Console
from orchestrator.run_directory import write_atomic
from orchestrator.trial_rollouts import at_most, trial_rollouts
from orchestrator.workers import Workers

CHOICE_FILE = "choice.json"


def choose_repair(
    config: RunConfig, workers: Workers, run_dir: Path, console: Console
) -> tuple[RunConfig, dict[str, Any] | None]:
    """Give alpha and rho numbers where they are `auto`.

    Each candidate's weights go to the engines, which sample `rejuvenation.auto.prompts` training tasks with the
    temperature of the training rollouts. The choice is written to choice.json; a resumed run takes it from there.

    Args:
        config: of the run.
        workers: with engines.
        run_dir: of the run.
        console: is told the decision.

    Returns:
        The configuration with numbers, and the choice as plain values (None where there was nothing to choose).
    """
    if config.model.start != "rejuvenated" or not config.rejuvenation.is_auto:
        return config, None
    from rejuvenation.choice import Choice, Outcome, choose
    from rejuvenation.choice_table import details

    auto, file = config.rejuvenation.auto, run_dir / CHOICE_FILE
    prompts = at_most(config, auto.prompts)

    def measure(alpha: float, rho: float) -> Outcome:
        handles, reset_ratio = workers.candidate(config, alpha, rho)
        found = trial_rollouts(
            config,
            workers,
            handles,
            prompts=prompts,
            samples=auto.samples,
            temperature=config.rollout.temperature,
            purpose="choice",
        )
        return Outcome(reset_ratio, found.entropy, found.solved, found.failed)

    if file.is_file():
        choice = Choice.from_json(json.loads(file.read_text()))
    else:
        judged_by = f"{auto.samples} rollouts of each of {prompts} training tasks, graded by {config.environment.id}"
        with console.stage("alpha and rho chosen"):
            choice = choose(config.rejuvenation, measure, judged_by=judged_by)
        write_atomic(file, json.dumps(choice.to_json(), indent=1) + "\n")
    console.explain(f"auto: {choice.sentence}")
    for line in details(choice):
        console.rich.print(Text(line), soft_wrap=True)
    repair = replace(config.rejuvenation, alpha=choice.alpha, rho=choice.rho)
    return replace(config, rejuvenation=repair), choice.to_json()
