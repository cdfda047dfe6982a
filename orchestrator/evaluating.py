"""`rejuvenate eval CHECKPOINT`: evaluate a checkpoint with the rollout workers alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.table import Table

from configs.run import RunConfig
from orchestrator.evaluation import Evaluation
from orchestrator.evaluation import evaluate as evaluate_on
from orchestrator.launchers import launch


def evaluate_checkpoint(config: RunConfig) -> Evaluation:
    """Start the rollout workers, give them `model.sft`, evaluate, end. Only logs are written, to a temporary folder."""
    with (
        tempfile.TemporaryDirectory(prefix="rejuvenate-eval-") as logs,
        launch(config, Path(logs), learners=False) as workers,
    ):
        parcel = workers.read(config.model.sft)
        workers.deliver(parcel.handles, 0)
        return evaluate_on(workers, config.environment, config.evaluation, config.rollout.max_tokens, config.seed, 0)


def table(result: Evaluation) -> Table:
    """One row per task set."""
    found = Table(pad_edge=False)
    for column in ("set", "kind", "tasks", "greedy", "pass@1", "pass@k", "signal", "entropy"):
        found.add_column(column, justify="left" if column in ("set", "kind") else "right")
    for s in result.sets:
        figures = s.summary()
        found.add_row(
            s.name,
            s.kind,
            str(len(s.greedy)),
            f"{figures['greedy']:.3f} ± {figures['greedy_se']:.3f}",
            f"{figures['pass@1']:.3f}",
            f"{figures[f'pass@{s.k}']:.3f} (k={s.k})",
            f"{figures['signal']:.2f}",
            f"{figures['entropy']:.3f}",
        )
    return found
