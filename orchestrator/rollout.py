"""Rollout worker: one engine, many episodes at once.

The engine decodes in this thread; environments are made, reset and stepped in a pool of threads, so that a slow tool
stalls its own episode only. Environments that compute, rather than wait for something, are let through between two
steps of an engine in this process: beside a step they would hold it up by more than that. With `deterministic` every
environment is waited for before the engine goes on: the engine then sees the same batches in each run, which exact
resume needs.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium

from configs.environment import EnvironmentConfig
from configs.rollout import RolloutConfig
from orchestrator.environment_pool import EnvironmentPool, close_aside
from orchestrator.environment_threads import EnvironmentThreads, Outcome
from orchestrator.episode import Episode, EpisodeJob, Sampling, SharedByGroup
from orchestrator.tool_forms import with_tool_form
from orchestrator.transport import Transport, receive
from policies.engine import Engine
from policies.rendering import load_renderer
from policies.trajectory import Trajectory

log = logging.getLogger("rejuvenate")

IDLE_PATIENCE_S = 1.0
"""Longest wait for environments that compute while the engine has nothing to do; else as long as its last step."""
COLLECT_EVERY = 50_000
"""Objects made and not freed between two runs of the garbage collector in a batch; Python's own 700 is for scripts."""


class RolloutWorker:
    """Runs episodes on its engine and takes new weights; constructible without Ray."""

    def __init__(
        self, config: RolloutConfig, model_dir: str, transport: Transport, log_path: str | None = None
    ) -> None:
        self.config = config
        self.transport = transport
        self.renderer = load_renderer(model_dir)
        self.engine = Engine(config, model_dir, stop_token_ids=self.renderer.stop_token_ids, log_path=log_path)
        self.pool = EnvironmentPool()
        self.threads = EnvironmentThreads(config.env_threads, config.step_timeout_s)

    def update_weights(self, handles: list[Any], version: int) -> int:
        """Fetch published buckets and put them into the engine; returns the engine's policy_version."""
        self.engine.update_weights(receive(self.transport, handles, self.config.timeout_s), version)
        return self.engine.policy_version

    def reset_prefix_cache(self) -> None:
        """Empty the engine's prefix cache, so that what comes next does not depend on what came before."""
        self.engine.reset_prefix_cache()

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """[B][T] log-probabilities of given tokens as the engine computes them; to be compared with the learner's."""
        return self.engine.score(sequences)

    def weights(self) -> dict[str, Any]:
        """What the engine computes with, by checkpoint name (CPU; see `Engine.weights`)."""
        return self.engine.weights()

    def run(self, jobs: Sequence[EpisodeJob], environment: EnvironmentConfig, sampling: Sampling) -> list[Trajectory]:
        """Run episodes to their end.

        Args:
            jobs: the episodes; siblings share a task.
            environment: which environment; instances are kept and reused.
            sampling: temperature and turn limit.

        Returns:
            One trajectory per job, in the order of `jobs`. A failure of an environment is a trajectory with a status;
            an episode that is not over after `config.timeout_s` is one that timed out.

        Raises:
            RuntimeError: the engine failed, or no episode at all was over in time.
        """
        self.pool.make_room(len(jobs))
        environment = with_tool_form(environment, self.renderer.tool_template)
        with rare_collections():
            return EpisodeBatch(self, jobs, environment, sampling).run()

    def take_env(self, environment: EnvironmentConfig) -> gymnasium.Env:
        """An idle environment of this kind, or a new one; called in an environment thread."""
        return self.pool.take(environment)

    def return_env(self, environment: EnvironmentConfig, env: gymnasium.Env) -> None:
        """Keep a healthy environment for later episodes."""
        self.pool.give_back(environment, env)

    def discard_env(self, env: gymnasium.Env) -> None:
        """Close an environment that failed or hangs."""
        close_aside(env)

    def close(self) -> None:
        """Close the engine and all environments."""
        self.pool.close()
        self.threads.close()
        self.engine.close()


class EpisodeBatch:
    """One call of `RolloutWorker.run`."""

    def __init__(
        self, worker: RolloutWorker, jobs: Sequence[EpisodeJob], environment: EnvironmentConfig, sampling: Sampling
    ) -> None:
        self.worker = worker
        self.config = worker.config
        self.environment = environment
        shared = SharedByGroup()
        take = functools.partial(worker.take_env, environment)
        self.episodes = [
            Episode(job, take, worker.renderer, sampling, self.config.max_model_len, shared) for job in jobs
        ]
        self.decoding: dict[str, Episode] = {}
        self.open = len(self.episodes)

    def run(self) -> list[Trajectory]:
        """Alternate between the engine and the environments until all episodes are over."""
        deadline = time.monotonic() + self.config.timeout_s
        threads = self.worker.threads
        step_s = 0.0
        for episode in self.episodes:
            threads.start(episode, episode.begin)
        try:
            while self.open:
                patience_s = math.inf if self.config.deterministic else step_s if self.decoding else IDLE_PATIENCE_S
                for outcome in threads.collect(
                    patience_s=patience_s, wait_for_one=not self.decoding, deadline=deadline
                ):
                    self._take(outcome)
                if self.open and time.monotonic() > deadline:
                    self._give_up()
                    break
                begun = time.monotonic()
                generations = self.worker.engine.step() if self.decoding else []
                step_s = time.monotonic() - begun if self.worker.engine.in_process else 0.0
                for generation in generations:
                    episode = self.decoding.pop(generation.request_id)
                    episode.accept(generation)
                    threads.start(episode, episode.advance)
        except BaseException:  # nothing of this batch may reach the next one
            threads.forget()
            with contextlib.suppress(Exception):  # the engine may be what failed
                self.worker.engine.abort(list(self.decoding))
            raise
        return [episode.trajectory for episode in self.episodes]

    def _take(self, outcome: Outcome) -> None:
        """Send an episode's next turn to the engine, or end the episode."""
        episode: Episode = outcome.owner
        if outcome.failure is not None:  # the environment may be broken or busy: it is not used again
            episode.fail(*outcome.failure)
            self.open -= 1
            if episode.env is not None:  # else its constructor raised, or the thread that is late closes it
                self.worker.discard_env(episode.env)
        elif outcome.value is None:
            self.open -= 1
            assert episode.env is not None
            self.worker.return_env(self.environment, episode.env)
        else:
            self.decoding[outcome.value.request_id] = episode
            self.worker.engine.submit(outcome.value)

    def _give_up(self) -> None:
        """End the episodes that are not over in time.

        Raises:
            RuntimeError: all of them are late.
        """
        waiting = self.open - len(self.decoding)
        late = (
            f"{self.open} of {len(self.episodes)} episodes were not over after rollout.timeout_s = "
            f"{self.config.timeout_s:g} s: {len(self.decoding)} were decoding, {waiting} waited for their environment"
        )
        if self.open == len(self.episodes):
            raise RuntimeError(late)
        log.warning("%s", late)
        self.worker.threads.forget()
        self.worker.engine.abort(list(self.decoding))
        for episode in self.episodes:
            if not episode.over:
                episode.fail("timed_out", f"not over after rollout.timeout_s = {self.config.timeout_s:g} s")
                if episode.env is not None:
                    self.worker.discard_env(episode.env)


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let the garbage collector run seldom: the thousands of open turns are live, and it would look at them in vain."""
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_EVERY, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
