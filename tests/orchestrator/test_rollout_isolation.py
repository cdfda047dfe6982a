"""Episodes whose environments run in processes: limits, statuses, and a pool that is whole again afterwards."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from configs.environment import EnvironmentConfig
from configs.rollout import RolloutConfig
from envs.process_tree import descendants
from orchestrator import rollout
from orchestrator.environment_pool import EnvironmentPool, close_aside
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.rollout import EpisodeBatch
from tests.ended import ended
from tests.envs.broken import WAYS
from tests.orchestrator.fakes import ChainEnv, FakeEngine, FakeRenderer, FakeWorker, takes_less_than

SAMPLING = Sampling(1.0, 8)
BROKEN = "tests.envs.broken:BrokenEnv"


class PooledWorker(FakeWorker):
    """With the real pool."""

    def __init__(self, **settings):
        given = {"max_model_len": 64, "max_tokens": 8, "step_timeout_s": 30.0, "timeout_s": 60.0, **settings}
        config = RolloutConfig(**given)
        super().__init__(config, FakeEngine(per_step=3), None)
        self.pool = EnvironmentPool(None, config.step_timeout_s, config.env_processes)
        self.now = self.most = self.taken = 0
        self.counting = threading.Lock()

    def take_env(self, environment):
        with self.counting:
            self.now += 1
            self.taken += 1
            self.most = max(self.most, self.now)
        return self.pool.take(environment)

    def return_env(self, environment, env):
        self.now -= 1
        self.pool.give_back(environment, env)

    def discard_env(self, env):
        self.now -= 1
        close_aside(env)

    def run(self, environment, tasks, siblings=1):
        self.engine.submitted.clear()
        self.pool.make_room(len(tasks) * siblings)
        self.pool.begin(environment, len(tasks) * siblings)
        planned = [EpisodeJob(g, s, task, 10 * g + s) for g, task in enumerate(tasks) for s in range(siblings)]
        return EpisodeBatch(self, planned, environment, SAMPLING).run()

    def close(self):
        self.pool.close()
        self.threads.close()


def config(**settings):
    settings = {"isolation": "process", "memory_bytes": 256 << 20, **settings}
    return EnvironmentConfig(settings.pop("id", BROKEN), settings.pop("kwargs", {}), **settings)


@pytest.mark.parametrize("deterministic", [False, True])
def test_every_way_to_go_wrong_costs_its_own_episode_only(tmp_path, deterministic):
    before = set(descendants(os.getpid()))
    worker = PooledWorker(step_timeout_s=4.0, env_processes=8, deterministic=deterministic)
    environment = config(kwargs={"marks": str(tmp_path / "marks")})
    tasks = [0, 100, *range(1, len(WAYS)), 101, 102]
    with takes_less_than(50):
        found = worker.run(environment, tasks)
    statuses = {task: t.status for task, t in zip(tasks, found, strict=True)}
    wrong = {WAYS[task]: status for task, status in statuses.items() if task < len(WAYS)}
    assert wrong == dict.fromkeys(WAYS, "environment_error") | {"hang": "timed_out"}
    assert {status for task, status in statuses.items() if task >= 100} == {"finished"}
    assert [t.reward for t in found if t.status == "finished"] == [1.0] * 3

    again = worker.run(environment, range(100, 116))
    assert [t.status for t in again] == ["finished"] * 16, "the pool is whole again"
    worker.close()
    assert ended(set(descendants(os.getpid())) - before) == []
    assert ended([int(line) for line in (tmp_path / "marks").read_text().split()]) == []


def test_no_more_processes_than_allowed_are_open_and_all_episodes_have_their_turn():
    worker = PooledWorker(env_processes=3)
    found = worker.run(config(), range(100, 110), siblings=2)
    assert [t.status for t in found] == ["finished"] * 20
    assert worker.most == 3
    assert worker.taken == 20
    assert len({t.metrics["process"] for t in found}) == 3, "processes are used again"
    worker.close()


def test_processes_of_all_kinds_together_are_no_more_than_allowed(monkeypatch):
    engine, renderer = FakeEngine(per_step=3), FakeRenderer()
    renderer.tool_template, renderer.stop_token_ids = None, []
    monkeypatch.setattr(rollout, "Engine", lambda *args, **kwargs: engine)
    monkeypatch.setattr(rollout, "load_renderer", lambda model_dir: renderer)
    worker = rollout.RolloutWorker(RolloutConfig(max_model_len=64, max_tokens=8, env_processes=2), "model", None)
    before = set(descendants(os.getpid()))
    for kind in range(6):
        engine.submitted.clear()
        jobs = [EpisodeJob(g, 0, 100 + g, g) for g in range(4)]
        found = worker.run(jobs, config(kwargs={"stay_s": float(kind)}), SAMPLING)
        assert [t.status for t in found] == ["finished"] * 4
    deadline = time.monotonic() + 10  # some may not have been waited for yet
    while len(started := set(descendants(os.getpid())) - before) > 5:
        assert time.monotonic() < deadline, f"two environments, two supervisors and the fork server, not {len(started)}"
        time.sleep(0.05)
    worker.pool.close()
    worker.threads.close()


def test_one_episode_of_another_kind_costs_one_idle_process():
    worker = PooledWorker(env_processes=2)
    first, second = config(kwargs={"stay_s": 1.0}), config(kwargs={"stay_s": 2.0})
    processes = {t.metrics["process"] for t in worker.run(first, range(100, 108))}
    worker.run(second, [100])
    again = {t.metrics["process"] for t in worker.run(first, [100])}
    assert len(processes) == 2
    assert again < processes
    worker.close()


@pytest.mark.parametrize(("episodes", "processes"), [(1, 6), (2, 3), (0, 1)])
def test_a_process_is_replaced_after_its_episodes(episodes, processes):
    worker = PooledWorker(env_processes=1)
    found = worker.run(config(episodes_per_process=episodes), range(100, 106))
    assert len({t.metrics["process"] for t in found}) == processes
    assert max(t.metrics["steps_ever"] for t in found) == 3 + 4 * (6 // processes - 1), "its state is gone with it"
    worker.close()


def test_an_idle_process_that_ended_costs_no_episode():
    worker = PooledWorker(env_processes=3)
    environment = config()
    assert [t.status for t in worker.run(environment, range(100, 103))] == ["finished"] * 3
    (idle,) = worker.pool._idle.values()
    assert len(idle) == 3
    for env in idle[:2]:
        os.kill(env.process.supervisor, signal.SIGKILL)
    assert ended([env.process.supervisor for env in idle[:2]]) == []
    found = worker.run(environment, range(100, 106))
    assert [t.status for t in found] == ["finished"] * 6
    worker.close()


def test_in_a_process_or_a_thread_an_episode_has_the_same_tokens():
    found = {}
    for isolation in ("thread", "process"):
        worker = PooledWorker(deterministic=True)
        batch = worker.run(config(isolation=isolation, id="tests.orchestrator.relay:Relay"), range(5), siblings=2)
        found[isolation] = [{**t.to_json(), "seconds": 0} for t in batch]
        worker.close()
    assert found["thread"] == found["process"]
    assert {t["status"] for t in found["thread"]} == {"finished"}


@pytest.mark.parametrize("deterministic", [False, True])
def test_an_episode_over_its_own_limit_times_out_wherever_it_is(deterministic):
    hang = threading.Event()

    class LongEnv(ChainEnv):
        """Task 0 hangs in its second step, task 1 takes many short ones, task 2 is quick."""

        def step(self, text):
            if self.n == 0 and self.at == 1:
                hang.wait(60)
            if self.n == 1:
                time.sleep(0.02)
            self.turns = {0: 3, 1: 10**6, 2: 2}[self.n]
            return super().step(text)

    settings = RolloutConfig(
        max_model_len=10**5, max_tokens=8, episode_timeout_s=0.5, timeout_s=60, deterministic=deterministic
    )
    worker = FakeWorker(settings, FakeEngine(), LongEnv)
    planned = [EpisodeJob(task, 0, task, task) for task in (0, 1, 2)]
    with takes_less_than(20):
        found = EpisodeBatch(worker, planned, EnvironmentConfig(id="unused"), SAMPLING).run()
    assert [t.status for t in found] == ["timed_out", "timed_out", "finished"]
    assert {t.error for t in found[:2]} == {"not over after rollout.episode_timeout_s = 0.5 s"}
    assert 0.4 < found[1].seconds < 10
    assert len(found[1].turns) > 2
    assert len(worker.discarded) == 2
    hang.set()
    time.sleep(0.1)
    worker.engine.submitted.clear()
    later = EpisodeBatch(worker, [EpisodeJob(2, s, 2, s) for s in range(4)], EnvironmentConfig(id="unused"), SAMPLING)
    assert [t.status for t in later.run()] == ["finished"] * 4, "what came late does not reach the next batch"


def test_an_episode_over_its_limit_while_it_decodes_leaves_the_engine():
    settings = RolloutConfig(max_model_len=64, max_tokens=8, episode_timeout_s=0.3, timeout_s=60)
    engine = FakeEngine(per_step=0)
    worker = FakeWorker(settings, engine, ChainEnv)
    planned = [EpisodeJob(task, 0, task, task) for task in range(2)]
    with takes_less_than(20):
        found = EpisodeBatch(worker, planned, EnvironmentConfig(id="unused"), SAMPLING).run()
    assert [t.status for t in found] == ["timed_out"] * 2
    assert sorted(engine.aborted) == ["0-0-0", "1-0-0"]


def test_time_before_an_episode_begins_does_not_count():
    class Slow(ChainEnv):
        def step(self, text):
            time.sleep(0.2)
            return super().step(text)

    settings = RolloutConfig(max_model_len=64, max_tokens=8, env_threads=1, episode_timeout_s=1.0, timeout_s=60)
    worker = FakeWorker(settings, FakeEngine(), Slow)
    worker.config = settings
    planned = [EpisodeJob(task, 0, task, task) for task in range(8)]
    environment = EnvironmentConfig(id="unused", isolation="process")  # one at a time: 8 times 0.2 s
    object.__setattr__(settings, "env_processes", 1)
    found = EpisodeBatch(worker, planned, environment, SAMPLING).run()
    assert [t.status for t in found] == ["finished"] * 8


def test_a_batch_that_fails_leaves_no_environment_behind():
    before = set(descendants(os.getpid()))
    worker = PooledWorker()
    worker.engine.fails = True
    with pytest.raises(RuntimeError, match="engine core died"):
        worker.run(config(), range(100, 106))
    worker.engine.fails = False
    worker.engine.waiting.clear()
    deadline = time.monotonic() + 20
    while len(set(descendants(os.getpid())) - before) > 1:
        assert time.monotonic() < deadline, "the fork server alone stays"
        time.sleep(0.05)
    assert [t.status for t in worker.run(config(), range(100, 104))] == ["finished"] * 4
    worker.close()
