"""What a checkpoint does on training tasks before any RL: rollouts on the engines, in the environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from configs.run import RunConfig
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.evaluation import mean, succeeded
from orchestrator.run_directory import resolve_run_dir
from orchestrator.seeding import derive
from orchestrator.steps import TaskOrder, where_to_look
from orchestrator.workers import Workers
from policies.trajectory import FAILED


@dataclass(frozen=True, slots=True)
class TrialRollouts:
    """What came out."""

    solved: list[int]
    """[prompts] episodes that solved the task."""
    entropy: float
    """Nats per token, the mean of -log p over sampled tokens."""
    failed: int
    """Episodes whose environment failed or was late; they count as unsolved."""


def trial_rollouts(
    config: RunConfig,
    workers: Workers,
    handles: Sequence[Any],
    *,
    prompts: int,
    samples: int,
    temperature: float,
    purpose: str,
) -> TrialRollouts:
    """Sample a checkpoint on training tasks that are drawn by the run's seed; each checkpoint gets the same seeds.

    Args:
        config: of the run.
        workers: with engines, which then hold these weights.
        handles: of the checkpoint's buckets.
        prompts: training tasks; no more than there are (`at_most`), as none is to count twice.
        samples: episodes of each.
        temperature: of sampling.
        purpose: what it is for (`gate`, say): another purpose draws other tasks. Errors name it.

    Raises:
        RuntimeError: every episode failed, so that nothing was measured.
    """
    workers.deliver(list(handles), 0)
    workers.reset_prefix_cache()
    order = TaskOrder.of(replace(config, seed=derive(config.seed, purpose)))
    assert order.num_tasks is None or prompts <= order.num_tasks, (prompts, order.num_tasks)
    jobs = [
        EpisodeJob(group, sample, order.index(group), derive(config.seed, purpose, group, sample))
        for group in range(prompts)
        for sample in range(samples)
    ]
    trajectories = workers.generate(jobs, config.environment, Sampling(temperature, config.rollout.max_tokens))
    failed = [trajectory for trajectory in trajectories if trajectory.status in FAILED]
    if len(failed) == len(trajectories):
        first = failed[0]
        raise RuntimeError(
            f"all {len(failed)} episodes of the {purpose} failed, the first one as {first.status}: {first.error}. "
            f"{where_to_look(config, resolve_run_dir(config))}"
        )
    solved = [0] * prompts
    for trajectory in trajectories:
        solved[trajectory.group] += succeeded(trajectory)
    logprobs = [lp for t in trajectories for lp, mask in zip(t.rollout_logprobs, t.loss_mask, strict=True) if mask]
    return TrialRollouts(solved, -mean(logprobs), len(failed))


def at_most(config: RunConfig, prompts: int) -> int:
    """As many of `prompts` training tasks as the environment has."""
    order = TaskOrder.of(config)
    return prompts if order.num_tasks is None else min(prompts, order.num_tasks)
