"""The synchronous loop: generate, score, learn, publish, log; now and then evaluate and save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.run import RunConfig
from orchestrator import checkpoints, evaluation, steps, trajectories
from orchestrator.checkpoints import RunState
from orchestrator.console import Console
from orchestrator.episode import Sampling
from orchestrator.loggers import Loggers
from orchestrator.task_sets import task_sets
from orchestrator.workers import Workers
from policies.losses import Loss


class StageClock:
    """Seconds per stage of one training step, as `time/STAGE_s`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        start = time.perf_counter()
        yield
        self.seconds[f"time/{name}_s"] = time.perf_counter() - start


def train(
    config: RunConfig,
    workers: Workers,
    run_dir: Path,
    files: dict[str, bytes],
    state: RunState,
    loggers: Loggers,
    console: Console,
) -> RunState:
    """Train from `state` to `algorithm.steps`, each batch on-policy.

    Consumes tasks of the training environment; produces metrics, trajectories, evaluations and checkpoints in
    `run_dir`. Before the first step the engines hold `state.policy_version`. Waits for the rollout workers
    (`rollout.timeout_s`) and the learner group (`learner.timeout_s`), in turn.

    Returns:
        The state after the last step.
    """
    order = steps.TaskOrder.of(config)
    sampling = Sampling(config.rollout.temperature, config.rollout.max_tokens)
    loss = Loss.of(config.algorithm, config.rollout.temperature)
    console.begin("training", total=config.algorithm.steps, at=state.step)
    saved: dict[str, float] = {}  # seconds of the checkpoint before, which is written after its step is logged
    while state.step < config.algorithm.steps:
        clock = StageClock()
        step = state.step + 1
        with clock.stage("rollout"):
            batch = workers.generate(steps.plan_episodes(config, order, step), config.environment, sampling)
            steps.check_usable(batch, step, config, run_dir)
        with clock.stage("score"):
            minibatches = steps.make_minibatches(batch, config.algorithm)
        with clock.stage("update"):
            learned = steps.learn(workers, minibatches, loss)
        with clock.stage("publish"):
            workers.publish(state.policy_version + 1)
        state = RunState(step, state.policy_version + 1)

        figures = steps.describe(batch) | learned
        if config.logging.trajectories:
            trajectories.write(batch, run_dir, step)
        if due(step, config.evaluation.every_steps) and step < config.algorithm.steps:
            with clock.stage("evaluation"):
                figures |= evaluate(config, workers, run_dir, step)
        figures |= clock.seconds | saved | rates(figures, clock.seconds)
        loggers.log(step, figures | {"policy_version": float(state.policy_version)})
        console.advance(figures)
        saved = {}
        if due(step, config.checkpoint.every_steps):  # after the log: a run that resumes from it has all lines before
            checkpointing = StageClock()
            with checkpointing.stage("checkpoint"):
                checkpoints.save(workers, run_dir, state, files, config.checkpoint.keep)
            saved = checkpointing.seconds
    console.end()
    return state


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens after `step`."""
    return every > 0 and step % every == 0


def rates(figures: dict[str, float], seconds: dict[str, float]) -> dict[str, float]:
    """Tokens per second of the rollout (sampled) and of the learner (loss-mask tokens)."""
    return {
        "rollout_tokens_per_s": figures["sampled_tokens"] / seconds["time/rollout_s"],
        "learner_tokens_per_s": figures["tokens"] / seconds["time/update_s"],
    }


def evaluate(config: RunConfig, workers: Workers, run_dir: Path, step: int) -> dict[str, float]:
    """Evaluate what the engines hold, write the results, return figures for the loggers."""
    result = evaluation.evaluate(workers, task_sets(config), config.seed, step)
    workers.reset_prefix_cache()  # the next step must not depend on whether there was an evaluation before it
    evaluation.write(result, evaluation.evaluation_file(run_dir, step))
    return result.figures()
