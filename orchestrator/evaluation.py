"""Evaluation on held-out tasks: greedy accuracy, pass@k, entropy and share of groups with a signal."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs.environment import EnvironmentConfig, EvaluationConfig, EvaluationSetConfig
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.run_directory import step_of, write_atomic
from orchestrator.seeding import derive
from orchestrator.workers import Workers
from policies.trajectory import FAILED


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is correct (arXiv 2107.03374, Eq. 1)."""
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


@dataclass(frozen=True, slots=True)
class SetResult:
    """Results on one task set, task by task, so that intervals can be computed later."""

    name: str
    kind: str
    k: int
    greedy: list[float]
    """[tasks] 1.0 where the greedy episode succeeded."""
    correct: list[int]
    """[sampled tasks] successes among `samples` sampled episodes; the first of the tasks."""
    samples: int
    entropy: float
    """Nats per token, the mean of -log p over sampled tokens (an unbiased estimate on the policy's own rollouts)."""
    truncated: float
    """Share of sampled episodes cut by a limit."""
    failed: int = 0
    """Episodes, greedy and sampled, whose environment failed or was late; they count as unsolved."""

    def summary(self) -> dict[str, float]:
        """Means with standard errors over tasks."""
        passes = [pass_at_k(self.samples, c, self.k) for c in self.correct]
        signal = [float(0 < c < self.samples) for c in self.correct]
        return {
            "greedy": mean(self.greedy),
            "greedy_se": standard_error(self.greedy),
            f"pass@{self.k}": mean(passes),
            f"pass@{self.k}_se": standard_error(passes),
            "pass@1": mean([c / self.samples for c in self.correct]),
            "signal": mean(signal),
            "signal_se": standard_error(signal),
            "entropy": self.entropy,
            "truncated": self.truncated,
            "failed": float(self.failed),
        }


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


def evaluate(
    workers: Workers, environment: EnvironmentConfig, config: EvaluationConfig, max_tokens: int, seed: int, step: int
) -> Evaluation:
    """Evaluate the weights that the engines hold: one greedy episode per task, and `samples` per sampled task."""
    return Evaluation(
        step, [evaluate_set(workers, environment, config, task_set, max_tokens, seed) for task_set in config.sets]
    )


def evaluate_set(
    workers: Workers,
    environment: EnvironmentConfig,
    config: EvaluationConfig,
    task_set: EvaluationSetConfig,
    max_tokens: int,
    seed: int,
) -> SetResult:
    """Evaluate on one set. Sampling seeds depend on seed, set, task and sample only: arms share them."""
    env = replace(environment, kwargs={**environment.kwargs, **task_set.kwargs})
    sampled_tasks = task_set.sampled_tasks or task_set.tasks
    greedy_jobs = [EpisodeJob(task, 0, task, 0) for task in range(task_set.tasks)]
    sampled_jobs = [
        EpisodeJob(task, sample, task, derive(seed, "evaluation", task_set.name, task, sample))
        for task in range(sampled_tasks)
        for sample in range(config.samples)
    ]
    greedy = workers.generate(greedy_jobs, env, Sampling(0.0, max_tokens))
    sampled = workers.generate(sampled_jobs, env, Sampling(config.temperature, max_tokens))
    correct = [0] * sampled_tasks
    for trajectory in sampled:
        correct[trajectory.group] += succeeded(trajectory)
    logprobs = [lp for t in sampled for lp, mask in zip(t.rollout_logprobs, t.loss_mask, strict=True) if mask]
    return SetResult(
        name=task_set.name,
        kind=task_set.kind,
        k=config.k,
        greedy=[float(succeeded(t)) for t in greedy],
        correct=correct,
        samples=config.samples,
        entropy=-mean(logprobs),
        truncated=mean([float(t.status == "truncated") for t in sampled]),
        failed=sum(t.status in FAILED for t in [*greedy, *sampled]),
    )


def succeeded(trajectory: Any) -> bool:
    """Whether an episode is solved: `metrics["success"]` where the environment gives it, else a positive reward.

    One that failed is not, whatever it had earned before.
    """
    return trajectory.status not in FAILED and trajectory.metrics.get("success", float(trajectory.reward > 0)) > 0


def mean(values: Sequence[float]) -> float:
    """Mean; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 where it cannot be estimated."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))


def write(evaluation: Evaluation, run_dir: Path) -> None:
    """Write evaluations/step_N.json with every task's result."""
    content = {
        "step": evaluation.step,
        "sets": [
            {name: getattr(s, name) for name in SetResult.__dataclass_fields__} | {"summary": s.summary()}
            for s in evaluation.sets
        ],
    }
    write_atomic(run_dir / "evaluations" / f"step_{evaluation.step:06d}.json", json.dumps(content))


def read_all(run_dir: Path) -> list[Evaluation]:
    """All evaluations of a run, by step."""
    found = []
    for file in sorted((run_dir / "evaluations").glob("step_*.json"), key=step_of):
        content = json.loads(file.read_text())
        sets = [SetResult(**{k: v for k, v in s.items() if k != "summary"}) for s in content["sets"]]
        found.append(Evaluation(content["step"], sets))
    return found
