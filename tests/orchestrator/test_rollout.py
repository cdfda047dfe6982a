import itertools
import threading

import pytest

from configs.environment import EnvironmentConfig
from configs.rollout import RolloutConfig
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.rollout import EpisodeBatch
from tests.orchestrator.fakes import ChainEnv, FakeEngine, FakeWorker, takes_less_than

ENVIRONMENT = EnvironmentConfig(id="unused")


def config(**changes):
    settings = {"max_model_len": 64, "max_tokens": 8, "env_threads": 2, "step_timeout_s": 30.0, "timeout_s": 30.0}
    return RolloutConfig(**{**settings, **changes})


def jobs(groups, size=2):
    return [EpisodeJob(g, s, task_index=g, seed=10 * g + s) for g in range(groups) for s in range(size)]


def run(worker, planned):
    return EpisodeBatch(worker, planned, ENVIRONMENT, Sampling(1.0, 8)).run()


@pytest.mark.parametrize("deterministic", [False, True])
def test_trajectories_come_in_the_order_of_the_jobs_however_the_engine_scrambles_them(deterministic):
    engine = FakeEngine(per_step=3)
    worker = FakeWorker(config(deterministic=deterministic), engine, lambda: ChainEnv(turns=2))
    planned = jobs(groups=5)
    found = run(worker, planned)
    assert [(t.group, t.sample) for t in found] == [(j.group, j.sample) for j in planned]
    for t in found:
        assert (t.status, t.reward, len(t.turns), t.task) == ("finished", 1.0, 2, {"n": t.group})
        assert sum(t.loss_mask) == 4
    assert len(worker.returned) == 10, "healthy environments are used again"
    assert len(engine.submitted) == 20
    assert worker.renderer.prompts == 5, "siblings' prompts are rendered once"


def test_deterministic_batches_reach_the_engine_in_one_order():
    orders = []
    for _ in range(3):
        engine = FakeEngine(per_step=4)
        slow = ChainEnv(turns=2, slow_task=0, slow_s=0.06)
        environments = iter([slow, *(ChainEnv(turns=2) for _ in range(5))])
        worker = FakeWorker(config(deterministic=True), engine, lambda made=environments: next(made))
        run(worker, jobs(groups=3))
        orders.append(engine.submitted)
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][:6] == ["0-0-0", "0-1-0", "1-0-0", "1-1-0", "2-0-0", "2-1-0"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_hanging_environment_costs_its_own_episodes_only(deterministic):
    hang = threading.Event()

    class HangingEnv(ChainEnv):
        def step(self, text):
            if self.n == 1:
                hang.wait(60)
            return super().step(text)

    settings = config(deterministic=deterministic, step_timeout_s=0.4)
    worker = FakeWorker(settings, FakeEngine(), lambda: HangingEnv(turns=2))
    with takes_less_than(20):
        found = run(worker, jobs(groups=3))
    assert [t.status for t in found] == ["finished"] * 2 + ["timed_out"] * 2 + ["finished"] * 2
    assert "step_timeout_s = 0.4 s" in found[2].error
    assert (len(worker.returned), len(worker.discarded)) == (4, 2), "one that hangs is not used again"
    hang.set()


def test_failing_environment_becomes_a_trajectory_with_a_status():
    worker = FakeWorker(config(), FakeEngine(), lambda: ChainEnv(bad_task=0))
    found = run(worker, jobs(groups=2, size=1))
    assert [t.status for t in found] == ["environment_error", "finished"]
    assert found[0].error == "KeyError: 'tool broke'"
    assert found[0].reward == 0.0
    assert (len(worker.returned), len(worker.discarded)) == (1, 1)


def test_giving_up_counts_what_was_decoding_and_what_waited_for_its_environment():
    hang = threading.Event()

    class HangingEnv(ChainEnv):
        def reset(self, *, seed=None, options=None):
            if options["task"]["n"] == 2:
                hang.wait(60)
            return super().reset(seed=seed, options=options)

    engine = FakeEngine(per_step=0)  # decodes for ever
    worker = FakeWorker(config(timeout_s=0.3), engine, HangingEnv)
    with pytest.raises(RuntimeError) as caught, takes_less_than(20):
        run(worker, jobs(groups=3, size=1))
    assert str(caught.value) == (
        "3 of 3 episodes were not over after rollout.timeout_s = 0.3 s: 2 were decoding, 1 waited for their environment"
    )
    assert sorted(engine.aborted) == ["0-0-0", "1-0-0"]
    hang.set()


def test_deterministic_batch_keeps_the_limit_while_it_waits_for_environments():
    hang = threading.Event()

    class HangingEnv(ChainEnv):
        def step(self, text):
            hang.wait(60)
            return super().step(text)

    worker = FakeWorker(config(timeout_s=0.3, deterministic=True), FakeEngine(), HangingEnv)
    with pytest.raises(RuntimeError, match="2 waited for their environment"), takes_less_than(20):
        run(worker, jobs(groups=1))
    hang.set()


def test_batch_after_a_failed_one_sees_nothing_of_it():
    engine = FakeEngine()
    worker = FakeWorker(config(), engine, lambda: ChainEnv(turns=2))
    engine.fails = True
    with pytest.raises(RuntimeError, match="engine core died"):
        run(worker, jobs(groups=4))
    engine.fails = False
    engine.submitted.clear()
    assert engine.waiting == []
    found = run(worker, jobs(groups=2))
    assert [(t.group, t.sample, t.status) for t in found] == [(g, s, "finished") for g in range(2) for s in range(2)]


def test_constructor_that_raises_or_hangs_costs_its_own_episode_only():
    hang, made = threading.Event(), itertools.count()

    def make_env():
        number = next(made)
        if number == 0:
            raise OSError("no container")
        if number == 1:
            hang.wait(60)
        return ChainEnv()

    worker = FakeWorker(config(step_timeout_s=0.4), FakeEngine(), make_env)
    with takes_less_than(20):
        found = run(worker, jobs(groups=3))
    assert sorted(t.status for t in found) == ["environment_error"] + ["finished"] * 4 + ["timed_out"]
    assert [t.error for t in found if t.status == "environment_error"] == ["OSError: no container"]
    assert (len(worker.returned), worker.discarded) == (4, [])
    hang.set()


def test_late_episodes_time_out_and_the_others_are_kept():
    hang = threading.Event()

    class SlowTask(ChainEnv):
        def step(self, text):
            if self.n == 1:
                hang.wait(60)
            return super().step(text)

    engine = FakeEngine()
    worker = FakeWorker(config(timeout_s=0.5), engine, SlowTask)
    with takes_less_than(20):
        found = run(worker, jobs(groups=3, size=1))
    assert [t.status for t in found] == ["finished", "timed_out", "finished"]
    assert "not over after rollout.timeout_s = 0.5 s" in found[1].error
    assert len(worker.discarded) == 1
    hang.set()
    engine.submitted.clear()
    assert [t.status for t in run(worker, jobs(groups=1))] == ["finished"] * 2, "the worker goes on"
