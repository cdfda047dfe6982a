from dataclasses import replace

import pytest

from configs.environment import EnvironmentConfig
from configs.errors import ConfigError
from configs.user_model import UserModelConfig
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.loop import due, rates
from orchestrator.members import InlineMember, MemberFailed
from orchestrator.parcel import Parcel
from orchestrator.workers import Workers
from policies.trajectory import Trajectory
from tests.orchestrator.fakes import run_config


class FakeRollout:
    """Returns its episodes in reverse, and takes any weights."""

    def __init__(self, takes=None):
        self.groups, self.held, self.takes = [], [], takes

    def run(self, jobs, environment, sampling):
        self.groups.append(sorted({job.group for job in jobs}))
        return [Trajectory(job.group, job.sample, {}) for job in reversed(jobs)]

    def update_weights(self, handles, version):
        self.held.append((handles, version))
        return version if self.takes is None else self.takes


class FakeLearner:
    def __init__(self, rank):
        self.rank, self.resets = rank, []

    def reset_neurons(self, masks, handles, strength, timeout_s):
        self.resets.append((masks, handles, strength))
        assert timeout_s > 0

    def publish(self, version):
        return [f"bucket of {version}"] if self.rank == 0 else []

    def update(self, samples, loss):
        return {"loss": float(len(samples))}


class Waiting:
    """An engine that is still starting."""

    def __init__(self):
        self.limits = []

    def result(self, timeout_s):
        self.limits.append(timeout_s)


def make(rollouts, learners=2, starting=(), closed=None, user_model=None):
    config = run_config(f"rollout.workers={len(rollouts)}", f"learner.ranks={learners}", "rollout.start_timeout_s=77")
    if user_model is not None:
        config = replace(config, user_model=UserModelConfig("org/name"))
    return Workers(
        config,
        [InlineMember(f"learner-{i}", FakeLearner(i)) for i in range(learners)],
        [InlineMember(f"rollout-{i}", r) for i, r in enumerate(rollouts)],
        InlineMember("rejuvenation", object()),
        user_model=None if user_model is None else InlineMember("user-model", user_model),
        starting=starting,
        close=lambda: (closed if closed is not None else []).append(True),
    )


def test_whole_groups_are_dealt_and_trajectories_come_in_the_order_of_the_jobs():
    rollouts = [FakeRollout(), FakeRollout()]
    jobs = [EpisodeJob(g, s, g, 0) for g in range(5) for s in range(3)]
    found = make(rollouts).generate(jobs, EnvironmentConfig("id"), Sampling(1.0, 8))
    assert [(t.group, t.sample) for t in found] == [(j.group, j.sample) for j in jobs]
    assert [r.groups for r in rollouts] == [[[0, 2, 4]], [[1, 3]]]


def test_worker_without_a_share_is_not_called():
    rollouts = [FakeRollout(), FakeRollout()]
    make(rollouts).generate([EpisodeJob(0, 0, 0, 0)], EnvironmentConfig("id"), Sampling(1.0, 8))
    assert [r.groups for r in rollouts] == [[[0]], []]


def test_rank_zero_publishes_and_every_engine_takes_it_after_it_has_started():
    rollouts, waiting = [FakeRollout(), FakeRollout()], Waiting()
    workers = make(rollouts, starting=[waiting])
    assert workers.version == -1
    workers.publish(4)
    workers.publish(5)
    assert workers.version == 5
    assert [r.held for r in rollouts] == [[(["bucket of 4"], 4), (["bucket of 5"], 5)]] * 2
    (limit,) = waiting.limits  # waited for once
    assert 76 < limit <= 77


class FakeServer:
    def __init__(self):
        self.waits, self.failure = 0, None

    def wait_until_ready(self):
        self.waits += 1
        if self.failure:
            raise RuntimeError(self.failure)


def test_user_model_is_waited_for_with_the_engines_and_before_each_batch():
    server, rollout = FakeServer(), FakeRollout()
    workers = make([rollout], user_model=server)
    workers.publish(0)
    assert server.waits == 1
    workers.generate([EpisodeJob(0, 0, 0, 0)], EnvironmentConfig("id"), Sampling(1.0, 8))
    assert server.waits == 2
    server.failure = "ended once more"
    with pytest.raises(RuntimeError, match="ended once more"):
        workers.generate([EpisodeJob(0, 0, 0, 0)], EnvironmentConfig("id"), Sampling(1.0, 8))
    assert len(rollout.groups) == 1, "no episode began"


def test_run_with_another_user_model_needs_workers_of_its_own():
    workers = make([FakeRollout()], user_model=FakeServer())
    workers.check_fits(workers.config)
    with pytest.raises(ConfigError, match="user_model must be as the workers were launched with"):
        workers.check_fits(replace(workers.config, user_model=None))


def test_engine_that_holds_another_version_is_our_bug():
    with pytest.raises(AssertionError):
        make([FakeRollout(takes=3)]).publish(4)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("rollout.max_model_len=600", "rollout.max_model_len"),
        ("rollout.deterministic=true", "rollout.deterministic"),
        ("learner.ranks=3", "learner.ranks"),
        ("learner.device=cuda", "learner.device"),
        ("environment.isolation=process", "environment.isolation"),
    ],
)
def test_run_that_needs_other_workers_is_refused_by_the_field_that_differs(override, field):
    workers = make([FakeRollout()])
    given = ["rollout.workers=1", "learner.ranks=2", "rollout.start_timeout_s=77"]
    workers.check_fits(run_config(*given, "rollout.max_tokens=9", "rollout.temperature=0.5", "learner.lr=0.1"))
    with pytest.raises(ConfigError, match=f"^{field} must be as the workers were launched with"):
        workers.check_fits(run_config(*given, override))


def test_figures_are_those_of_the_first_rank():
    assert make([FakeRollout()]).update([1, 2], None) == {"loss": 2.0}


def test_every_learner_rank_resets_the_neurons():
    workers = make([FakeRollout()])
    masks = {"a.weight": (0, [True, False])}
    workers.reset_neurons(masks, Parcel({}, ["bucket of the base"]), 0.5)
    workers.reset_neurons(masks)
    for member in workers.learners:
        assert member.target.resets == [(masks, ["bucket of the base"], 0.5), (masks, None, 1.0)]


def test_members_end_when_the_block_is_left_whatever_happens():
    closed = []
    with pytest.raises(MemberFailed), make([FakeRollout()], closed=closed):
        raise MemberFailed("rollout-0 died")
    assert closed == [True]


@pytest.mark.parametrize(("step", "every", "expected"), [(20, 20, True), (21, 20, False), (5, 0, False), (1, 1, True)])
def test_what_is_due_after_a_step(step, every, expected):
    assert due(step, every) is expected


def test_rates_of_a_worked_step():
    found = rates({"sampled_tokens": 300.0, "tokens": 200.0}, {"time/rollout_s": 2.0, "time/update_s": 4.0})
    assert found == {"rollout_tokens_per_s": 150.0, "learner_tokens_per_s": 50.0}


def test_checkpoints_with_another_tokenizer_need_workers_of_their_own():
    class Files:
        def files(self, model):
            return {"tokenizer.json": b"new" if model.sft == "new" else b"old", "config.json": b"same"}

    workers = make([FakeRollout()])
    workers.rejuvenator = InlineMember("rejuvenation", Files())
    config = workers.config
    workers.check_files(replace(config, model=replace(config.model, sft="other")))
    with pytest.raises(ConfigError, match=r"model must have the tokenizer\.json that the workers were launched with"):
        workers.check_files(replace(config, model=replace(config.model, sft="new")))
