"""The steps of a training step, as functions that the loops share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.algorithm import AlgorithmConfig
from configs.run import RunConfig
from envs.processes import open_environment
from orchestrator import checkpoints
from orchestrator.episode import EpisodeJob
from orchestrator.evaluation import mean, succeeded
from orchestrator.seeding import derive
from orchestrator.workers import Workers
from policies.advantages import ADVANTAGES
from policies.batching import Sample
from policies.losses import Loss
from policies.trajectory import FAILED, STATUSES, Trajectory


class TaskOrder:
    """Which task comes at which position of the run: a pure function, so that a resumed run goes on where it was.

    An environment with finitely many tasks is gone through in shuffled passes; an unbounded one is drawn from.
    """

    def __init__(self, num_tasks: int | None, seed: int) -> None:
        self.num_tasks = num_tasks
        self.seed = seed

    @classmethod
    def of(cls, config: RunConfig) -> TaskOrder:
        """The order of a run's training tasks."""
        env = open_environment(config.environment)
        num_tasks = getattr(env.unwrapped, "num_tasks", None)
        env.close()
        return cls(num_tasks, config.seed)

    def index(self, position: int) -> int:
        """The task at `position` (prompts since the start of the run)."""
        if self.num_tasks is None:
            return derive(self.seed, "task", position)
        epoch, place = divmod(position, self.num_tasks)
        order = np.random.default_rng(derive(self.seed, "epoch", epoch)).permutation(self.num_tasks)
        return int(order[place])


def plan_episodes(config: RunConfig, order: TaskOrder, step: int) -> list[EpisodeJob]:
    """The episodes of training step `step` (from 1): `prompts_per_step` groups of `group_size` siblings."""
    prompts, size = config.algorithm.prompts_per_step, config.algorithm.group_size
    first = (step - 1) * prompts
    tasks = [order.index(first + group) for group in range(prompts)]
    return [
        EpisodeJob(group, sample, tasks[group], derive(config.seed, "rollout", step, group, sample))
        for group in range(prompts)
        for sample in range(size)
    ]


def check_usable(trajectories: Sequence[Trajectory], step: int, config: RunConfig, run_dir: Path) -> None:
    """Raise `RuntimeError` when every episode of a training step failed: the environment is broken, not the policy."""
    failed = [t for t in trajectories if t.status in FAILED]
    if failed and len(failed) == len(trajectories):
        first = failed[0]
        newest = checkpoints.latest(run_dir)
        resume = "" if newest is None else f" resume=true goes on from the checkpoint {newest.name}."
        raise RuntimeError(
            f"all {len(failed)} episodes of training step {step} failed, the first one as {first.status}: "
            f"{first.error}. {where_to_look(config, run_dir)}{resume}"
        )


def where_to_look(config: RunConfig, run_dir: Path) -> str:
    """Where the traceback of a failed environment is, and how to try the environment alone."""
    log = run_dir / "logs" / ("rollout-0.log" if config.rollout.workers == 1 else "rollout-*.log")
    place = "is shown above" if config.launcher == "inline" else f"is in {log}"
    return f"The traceback {place}. Try it alone: `rejuvenate env check {config.environment.id}`."


def groups_of(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Siblings together, in the order of their groups; failed episodes left out."""
    groups: dict[int, list[Trajectory]] = {}
    for trajectory in trajectories:
        if trajectory.status not in FAILED:
            groups.setdefault(trajectory.group, []).append(trajectory)
    return [groups[key] for key in sorted(groups)]


def make_minibatches(trajectories: Sequence[Trajectory], config: AlgorithmConfig) -> list[list[Sample]]:
    """Score groups and split them into `config.minibatches` lists of samples, whole groups each.

    Groups with fewer than two usable episodes are left out, and with `drop_equal_groups` those whose rewards are all
    equal. A list may be empty when few groups carry a signal.
    """
    advantage = ADVANTAGES[config.name]
    scored: list[list[Sample]] = []
    for group in groups_of(trajectories):
        rewards = [t.reward for t in group]
        if len(group) < 2 or (config.drop_equal_groups and max(rewards) == min(rewards)):
            continue
        values = advantage(rewards, group)
        scored.append(
            [
                Sample(t.token_ids, t.loss_mask, advantage=value, rollout_logprobs=t.rollout_logprobs)
                for t, value in zip(group, values, strict=True)
                if any(t.loss_mask)
            ]
        )
    parts = np.array_split(np.arange(len(scored)), config.minibatches)
    return [[sample for i in part for sample in scored[i]] for part in parts]


def learn(workers: Workers, minibatches: Sequence[Sequence[Sample]], loss: Loss) -> dict[str, float]:
    """One optimizer step per non-empty minibatch; figures averaged over steps (maxima: their maximum)."""
    figures = [workers.update(batch, loss) for batch in minibatches if batch]
    if not figures:
        return {"skipped": 1.0, "tokens": 0.0}
    merged = {name: mean([f[name] for f in figures]) for name in figures[0]}
    merged |= {name: max(f[name] for f in figures) for name in figures[0] if name.endswith("_max")}
    # Later optimizer steps are off-policy by design: the gap between engine and learner is that of the first.
    merged |= {name: figures[0][name] for name in figures[0] if name.startswith("rollout_logprob_gap")}
    merged["tokens"] = sum(f["tokens"] for f in figures)
    return merged


def describe(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Figures of a batch of rollouts; see docs/metrics.md."""
    usable = [t for t in trajectories if t.status not in FAILED]
    rewards = [t.reward for t in usable]
    equal = [float(len({t.reward for t in group}) < 2) for group in groups_of(trajectories)]
    sampled = [lp for t in usable for lp, mask in zip(t.rollout_logprobs, t.loss_mask, strict=True) if mask]
    figures = {
        "reward": mean(rewards),
        "reward_std": float(np.std(rewards)) if rewards else 0.0,
        "success": mean([float(succeeded(t)) for t in usable]),
        "groups_without_signal": mean(equal),
        "rollout_entropy": -mean(sampled),
        "truncated": mean([float(t.status == "truncated") for t in trajectories]),
        "failed_episodes": float(len(trajectories) - len(usable)),
        "completion_tokens": mean([float(sum(t.loss_mask)) for t in usable]),
        "episode_tokens": mean([float(len(t.token_ids)) for t in usable]),
        "turns": mean([float(len(t.turns)) for t in usable]),
        "sampled_tokens": float(len(sampled)),
    }
    statuses = [t.status for t in trajectories]
    shares = {f"status/{status}": statuses.count(status) / max(1, len(statuses)) for status in STATUSES}
    return figures | shares | environment_figures(usable)


def environment_figures(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over episodes of what the environment reported in `info["metrics"]`, as `env/NAME`."""
    totals: dict[str, list[float]] = {}
    for trajectory in trajectories:
        metrics: Mapping[str, Any] = trajectory.metrics
        for name, value in metrics.items():
            totals.setdefault(name, []).append(float(value))
    return {f"env/{name}": sum(values) / len(trajectories) for name, values in sorted(totals.items())}
