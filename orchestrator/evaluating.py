"""`rejuvenate eval CHECKPOINT`: evaluate a checkpoint with the rollout workers alone."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from rich.table import Table

from configs.run import RunConfig
from orchestrator.evaluation import Evaluation
from orchestrator.evaluation import evaluate as evaluate_on
from orchestrator.launchers import launch


def evaluate_checkpoint(config: RunConfig) -> Evaluation:
    """Start the rollout workers, give them `model.sft`, evaluate, end.

    Only logs are written, to a temporary folder that stays where something fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="rejuvenate-eval-"))
    try:
        with launch(config, folder, learners=False) as workers:
            parcel = workers.read(config.model.sft)
            workers.deliver(parcel.handles, 0)
            result = evaluate_on(
                workers, config.environment, config.evaluation, config.rollout.max_tokens, config.seed, 0
            )
    except RuntimeError as error:
        raise RuntimeError(f"{error}\nlogs: {folder / 'logs'}") from error
    shutil.rmtree(folder, ignore_errors=True)
    return result


def table(result: Evaluation) -> Table:
    """One row per task set."""
    found = Table(pad_edge=False)
    k = max((s.k for s in result.sets), default=1)
    for column in ("set", "kind", "tasks", "greedy", "pass@1", f"pass@{k}", "signal", "entropy", "failed"):
        found.add_column(column, justify="left" if column in ("set", "kind") else "right", no_wrap=True)
    for s in result.sets:
        figures = s.summary()
        found.add_row(
            s.name,
            s.kind,
            str(len(s.greedy)),
            f"{figures['greedy']:.3f}±{figures['greedy_se']:.3f}",
            f"{figures['pass@1']:.3f}",
            f"{figures[f'pass@{s.k}']:.3f}",
            f"{figures['signal']:.2f}",
            f"{figures['entropy']:.3f}",
            str(s.failed),
        )
    return found
