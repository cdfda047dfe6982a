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
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium

from configs.environment import EnvironmentConfig
from configs.rollout import RolloutConfig
from orchestrator.environment_pool import EnvironmentPool, Processes, close_aside
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
        self,
        config: RolloutConfig,
        model_dir: str,
        transport: Transport,
        log_path: str | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self.transport = transport
        self.renderer = load_renderer(model_dir)
        self.engine = Engine(config, model_dir, stop_token_ids=self.renderer.stop_token_ids, log_path=log_path)
        self.pool = EnvironmentPool(processes, config.step_timeout_s, config.env_processes)
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
            an episode that is not over after its own or the batch's limit is one that timed out.

        Raises:
            RuntimeError: the engine failed, or no episode at all was over in time.
        """
        self.pool.make_room(len(jobs))
        environment = with_tool_form(environment, self.renderer.tool_template)
        self.pool.begin(environment, len(jobs))
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
        self.waiting = deque(self.episodes)  # not begun
        self.open = len(self.episodes)
        self.limit_s = self.config.episode_timeout_s or math.inf

    def run(self) -> list[Trajectory]:
        """Alternate between the engine and the environments until all episodes are over."""
        deadline = time.monotonic() + self.config.timeout_s
        threads = self.worker.threads
        step_s = 0.0
        isolated = self.environment.isolation == "process"
        self._begin(self.config.env_processes if isolated else self.open)
        try:
            while self.open:
                patience_s = math.inf if self.config.deterministic else step_s if self.decoding else IDLE_PATIENCE_S
                for outcome in threads.collect(
                    patience_s=patience_s, wait_for_one=not self.decoding, deadline=min(deadline, self._first_limit())
                ):
                    self._take(outcome)
                self._end_late()
                if self.open and time.monotonic() > deadline:
                    self._give_up()
                    break
                begun = time.monotonic()
                generations = self.worker.engine.step() if self.decoding else []
                step_s = time.monotonic() - begun if self.worker.engine.in_process else 0.0
                for generation in generations:
                    episode = self.decoding.pop(generation.request_id)
                    episode.accept(generation)
                    threads.start(episode, episode.advance, f"{self.environment.id} step")
        except BaseException as error:  # nothing of this batch may reach the next one
            threads.forget()
            with contextlib.suppress(Exception):  # the engine may be what failed
                self.worker.engine.abort(list(self.decoding))
            for episode in self.episodes:
                if not episode.over:
                    self._fail(episode, "environment_error", f"its batch failed: {error}")
            raise
        return [episode.trajectory for episode in self.episodes]

    def _begin(self, count: int) -> None:
        """Begin so many more episodes, if there are any."""
        for _ in range(min(count, len(self.waiting))):
            episode = self.waiting.popleft()
            self.worker.threads.start(episode, episode.begin, f"{self.environment.id} reset")

    def _take(self, outcome: Outcome) -> None:
        """Send an episode's next turn to the engine, or end the episode."""
        episode: Episode = outcome.owner
        if outcome.failure is not None:
            self._fail(episode, *outcome.failure)
            self._begin(1)
        elif outcome.value is None:
            self.open -= 1
            assert episode.env is not None
            self.worker.return_env(self.environment, episode.env)
            self._begin(1)
        else:
            self.decoding[outcome.value.request_id] = episode
            self.worker.engine.submit(outcome.value)

    def _fail(self, episode: Episode, status: str, error: str) -> None:
        """End an episode; its environment may be broken or busy and is not used again."""
        episode.fail(status, error)
        self.open -= 1
        if episode.env is not None:  # else its constructor raised, or the thread that is late closes it
            self.worker.discard_env(episode.env)

    def _first_limit(self) -> float:
        """When (`time.monotonic`) the first open episode reaches its own limit."""
        if self.limit_s == math.inf:
            return math.inf
        begun = (e.begun for e in self.episodes if not e.over and not math.isnan(e.begun))
        return min(begun, default=time.monotonic()) + self.limit_s

    def _end_late(self) -> None:
        """End the episodes that reached their own limit, wherever they are."""
        if self.limit_s == math.inf:
            return
        now = time.monotonic()
        late = [e for e in self.episodes if not e.over and now - e.begun > self.limit_s]  # not begun: nan, not late
        decoding = {id(episode): request_id for request_id, episode in self.decoding.items()} if late else {}
        for episode in late:
            self.worker.threads.drop(episode)
            request_id = decoding.get(id(episode))
            if request_id is not None:
                del self.decoding[request_id]
                self.worker.engine.abort([request_id])
            self._fail(episode, "timed_out", f"not over after rollout.episode_timeout_s = {self.limit_s:g} s")
        self._begin(len(late))

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
                self._fail(episode, "timed_out", f"not over after rollout.timeout_s = {self.config.timeout_s:g} s")


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let the garbage collector run seldom: the thousands of open turns are live, and it would look at them in vain."""
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_EVERY, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
