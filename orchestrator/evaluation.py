"""Evaluation on held-out tasks: greedy accuracy, pass@k, entropy and share of groups with a signal."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.bootstrap import Interval
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.intervals import proportion
from orchestrator.run_directory import step_of, write_atomic
from orchestrator.seeding import derive
from orchestrator.task_sets import TaskSet
from orchestrator.workers import Workers
from policies.trajectory import FAILED, Trajectory
from rejuvenation.diagnostics.passes import pass_at_k
from rejuvenation.diagnostics.statistics import standard_error

log = logging.getLogger("rejuvenate")


@dataclass(frozen=True, slots=True)
class SetResult:
    """Results on one task set, task by task, so that intervals can be computed later."""

    name: str
    kind: str
    k: int
    greedy: list[float]
    """[tasks] 1.0 where the greedy episode succeeded; empty where the set could not be measured."""
    correct: list[int]
    """[sampled tasks] successes among `samples` sampled episodes; the first of the tasks."""
    samples: int
    entropy: float
    """Nats per token, the mean of -log p over sampled tokens (an unbiased estimate on the policy's own rollouts)."""
    truncated: float
    """Share of sampled episodes cut by a limit."""
    failed: int = 0
    """Episodes, greedy and sampled, whose environment failed or was late; they count as unsolved."""
    error: str = ""
    """How the first of them failed, or why the set could not be measured."""
    setting: dict[str, Any] = field(default_factory=dict)
    """The `TaskSet` that was measured."""

    @property
    def measured(self) -> bool:
        """Whether there are results."""
        return bool(self.greedy)

    def per_task(self, measure: str) -> list[float]:
        """[tasks] values whose mean is the measure: `greedy`, `pass@1`, `pass@k` or `signal`."""
        if measure == "greedy":
            return self.greedy
        if measure == "pass@1":
            return [c / self.samples for c in self.correct]
        if measure == "pass@k":
            return [pass_at_k(self.samples, c, self.k) for c in self.correct]
        assert measure == "signal", measure
        return [float(0 < c < self.samples) for c in self.correct]

    def interval(self, measure: str) -> Interval:
        """A measure with its 95 % interval over tasks."""
        return proportion(self.per_task(measure), self.samples if measure.startswith("pass") else 1)

    def summary(self) -> dict[str, float]:
        """Means with standard errors and 95 % intervals over tasks; only the failures where it was not measured."""
        if not self.measured:
            return {"failed": float(self.failed)}
        figures: dict[str, float] = {}
        for measure in ("greedy", "pass@1", "pass@k"):
            name, found = measure.replace("@k", f"@{self.k}"), self.interval(measure)
            figures |= {name: found.mean, f"{name}_se": found.error}
            figures |= {f"{name}_low": found.low, f"{name}_high": found.high}
        signal = self.per_task("signal")
        figures |= {"signal": mean(signal), "signal_se": standard_error(signal)}
        return figures | {"entropy": self.entropy, "truncated": self.truncated, "failed": float(self.failed)}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a policy on all sets."""

    step: int
    sets: list[SetResult] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Flat figures for loggers: `eval/SET/NAME`."""
        return {f"eval/{s.name}/{key}": value for s in self.sets for key, value in s.summary().items()}

    def by_name(self, name: str) -> SetResult:
        """The result on one set."""
        return next(s for s in self.sets if s.name == name)


def evaluate(workers: Workers, sets: Sequence[TaskSet], seed: int, step: int) -> Evaluation:
    """Evaluate the weights that the engines hold: one greedy episode per task, and `samples` per sampled task."""
    return Evaluation(step, [evaluate_set(workers, task_set, seed) for task_set in sets])


def evaluate_set(workers: Workers, task_set: TaskSet, seed: int) -> SetResult:
    """Evaluate on one set. Sampling seeds depend on seed, set, task and sample only: arms share them.

    Where the environment fails in every greedy episode it is broken: nothing is sampled, and the set is not measured.
    """
    greedy_jobs = [EpisodeJob(task, 0, task, 0) for task in range(task_set.tasks)]
    sampled_jobs = [
        EpisodeJob(task, sample, task, derive(seed, "evaluation", task_set.name, task, sample))
        for task in range(task_set.sampled_tasks)
        for sample in range(task_set.samples)
    ]
    greedy = workers.generate(greedy_jobs, task_set.environment, Sampling(0.0, task_set.max_tokens))
    failed = [t for t in greedy if t.status in FAILED]
    if len(failed) == len(greedy):
        found = unmeasured(task_set, f"all {len(failed)} greedy episodes failed, the first one as {reason(failed[0])}")
        log.warning("evaluation set %s was not measured: %s", found.name, found.error)
        return replace(found, failed=len(failed))
    sampling = Sampling(task_set.temperature, task_set.max_tokens)
    sampled = workers.generate(sampled_jobs, task_set.environment, sampling)
    failed += [t for t in sampled if t.status in FAILED]
    correct = [0] * task_set.sampled_tasks
    for trajectory in sampled:
        correct[trajectory.group] += succeeded(trajectory)
    logprobs = [lp for t in sampled for lp, mask in zip(t.rollout_logprobs, t.loss_mask, strict=True) if mask]
    return SetResult(
        name=task_set.name,
        kind=task_set.kind,
        k=task_set.k,
        greedy=[float(succeeded(t)) for t in greedy],
        correct=correct,
        samples=task_set.samples,
        entropy=-mean(logprobs),
        truncated=mean([float(t.status == "truncated") for t in sampled]),
        failed=len(failed),
        error=reason(failed[0]) if failed else "",
        setting=task_set.setting,
    )


def unmeasured(task_set: TaskSet, error: str) -> SetResult:
    """The result on a set that could not be measured."""
    setting = task_set.setting
    return SetResult(
        task_set.name, task_set.kind, task_set.k, [], [], task_set.samples, 0.0, 0.0, error=error, setting=setting
    )


def reason(trajectory: Trajectory) -> str:
    """Why an episode failed, on one line."""
    return f"{trajectory.status}: {' '.join(str(trajectory.error).split())}"


def succeeded(trajectory: Any) -> bool:
    """Whether an episode is solved: `metrics["success"]` where the environment gives it, else a positive reward.

    One that failed is not, whatever it had earned before.
    """
    return trajectory.status not in FAILED and trajectory.metrics.get("success", float(trajectory.reward > 0)) > 0


def mean(values: Sequence[float]) -> float:
    """Mean; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def write(evaluation: Evaluation, file: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write an evaluation with every task's result as JSON.

    Args:
        evaluation: complete, or as far as it has come.
        file: where to; its directory exists.
        about: what else the file says, before the results.
    """
    sets = [asdict(result) | {"summary": result.summary()} for result in evaluation.sets]
    content = {**(about or {}), "step": evaluation.step, "sets": sets}
    write_atomic(file, json.dumps(content, default=str))  # a YAML date among the keyword arguments, say


def evaluation_file(run_dir: Path, step: int) -> Path:
    """Where a run keeps the evaluation after training step `step`."""
    return run_dir / "evaluations" / f"step_{step:06d}.json"


def read(file: Path) -> Evaluation:
    """An evaluation as `write` left it."""
    content = json.loads(file.read_text())
    sets = [SetResult(**{k: v for k, v in s.items() if k != "summary"}) for s in content["sets"]]
    return Evaluation(content["step"], sets)


def read_all(run_dir: Path) -> list[Evaluation]:
    """All evaluations of a run, by step."""
    return [read(file) for file in sorted((run_dir / "evaluations").glob("step_*.json"), key=step_of)]
