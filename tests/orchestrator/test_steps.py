import pytest

from configs.algorithm import AlgorithmConfig
from orchestrator.steps import TaskOrder, check_usable, describe, groups_of, learn, make_minibatches, plan_episodes
from policies.losses import Loss
from policies.trajectory import STATUSES, Trajectory, TurnRecord
from tests.orchestrator.fakes import FakeLearners, run_config


def trajectory(group, sample, reward, status="finished", sampled=2, logprob=-0.5, metrics=None):
    t = Trajectory(group, sample, {}, reward=reward, status=status, metrics=metrics or {})
    t.add_environment_tokens([1])
    t.add_turn(TurnRecord([1], [10 * group + sample] * sampled, [logprob] * sampled, "stop", 0))
    return t


def who(minibatches):
    """(group, sample) of every sample, told by its token."""
    return [[divmod(s.token_ids[-1], 10) for s in batch] for batch in minibatches]


def test_finite_tasks_come_once_per_pass_in_another_order_each_time():
    order = TaskOrder(num_tasks=7, seed=1)
    passes = [[order.index(7 * epoch + place) for place in range(7)] for epoch in range(3)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert passes[0] != passes[1]


def test_task_order_is_a_function_of_seed_and_position():
    assert [TaskOrder(50, 3).index(i) for i in (60, 7)] == [TaskOrder(50, 3).index(i) for i in (60, 7)]
    assert [TaskOrder(50, 3).index(i) for i in range(50)] != [TaskOrder(50, 4).index(i) for i in range(50)]


def test_unbounded_tasks_are_drawn():
    order = TaskOrder(None, 0)
    assert len({order.index(i) for i in range(1000)}) == 1000


def test_planned_episodes_are_whole_groups_with_one_task_and_seeds_of_their_own():
    config = run_config("algorithm.prompts_per_step=3", "algorithm.group_size=2")
    order = TaskOrder(6, config.seed)
    first, second = plan_episodes(config, order, 1), plan_episodes(config, order, 2)
    assert [(j.group, j.sample) for j in first] == [(g, s) for g in range(3) for s in range(2)]
    assert all(first[2 * g].task_index == first[2 * g + 1].task_index for g in range(3))
    assert sorted({j.task_index for j in first + second}) == list(range(6)), "two steps of three make one pass"
    assert len({j.seed for j in first + second}) == 12
    assert plan_episodes(config, order, 2) == second


def test_advantages_of_a_worked_group():
    config = AlgorithmConfig(name="dr_grpo")
    ((*samples,),) = make_minibatches([trajectory(0, s, r) for s, r in enumerate([1.0, 0.0, 0.0, 1.0])], config)
    assert [s.advantage for s in samples] == [0.5, -0.5, -0.5, 0.5]
    assert samples[0].loss_mask == [0, 1, 1]
    assert samples[0].rollout_logprobs == [0.0, -0.5, -0.5]


def test_groups_with_equal_rewards_are_dropped_or_kept_with_zero_advantage():
    batch = [trajectory(0, 0, 1.0), trajectory(0, 1, 1.0), trajectory(1, 0, 0.0), trajectory(1, 1, 1.0)]
    assert who(make_minibatches(batch, AlgorithmConfig())) == [[(1, 0), (1, 1)]]
    ((*kept,),) = make_minibatches(batch, AlgorithmConfig(drop_equal_groups=False))
    assert [s.advantage for s in kept[:2]] == [0.0, 0.0]
    assert len(kept) == 4


def test_minibatches_hold_whole_groups_and_all_of_them():
    batch = [trajectory(g, s, float(s)) for g in range(5) for s in range(3)]
    found = who(make_minibatches(batch, AlgorithmConfig(prompts_per_step=6, minibatches=3)))
    assert [len(part) for part in found] == [6, 6, 3]
    assert [sorted({g for g, _ in part}) for part in found] == [[0, 1], [2, 3], [4]]


def test_minibatches_are_empty_where_few_groups_have_a_signal():
    batch = [trajectory(0, s, float(s)) for s in range(2)]
    assert [len(p) for p in make_minibatches(batch, AlgorithmConfig(prompts_per_step=4, minibatches=4))] == [2, 0, 0, 0]


def test_failed_episodes_are_left_out_of_the_batch_and_of_the_baseline():
    batch = [
        trajectory(0, 0, 1.0),
        trajectory(0, 1, 0.0),
        trajectory(0, 2, 0.0, status="environment_error"),
        trajectory(0, 3, 0.0, status="timed_out"),
        trajectory(1, 0, 1.0),
        trajectory(1, 1, 0.0, status="timed_out"),
    ]
    assert [len(g) for g in groups_of(batch)] == [2, 1]
    ((*samples,),) = make_minibatches(batch, AlgorithmConfig(name="dr_grpo", drop_equal_groups=False))
    assert [s.advantage for s in samples] == [0.5, -0.5], "group 1 has one usable episode left and no baseline"


def test_episode_without_a_sampled_token_counts_in_the_baseline_but_is_not_trained_on():
    empty = Trajectory(0, 2, {}, reward=0.0, status="truncated")
    empty.add_environment_tokens([1, 2, 3])
    ((*samples,),) = make_minibatches(
        [trajectory(0, 0, 1.0), trajectory(0, 1, 0.5), empty], AlgorithmConfig(name="dr_grpo")
    )
    assert [s.advantage for s in samples] == [0.5, 0.0]


def test_learning_merges_figures_of_the_optimizer_steps():
    workers = FakeLearners()
    found = learn(workers, [["a"], [], ["b", "c"], ["d"]], Loss("grpo"))
    assert workers.batches == [["a"], ["b", "c"], ["d"]], "an empty minibatch is no step"
    assert found["loss"] == 2.0, "the mean of 1, 2, 3"
    assert found["grad_max"] == 3.0
    assert found["tokens"] == 60.0
    assert found["rollout_logprob_gap_max"] == 0.1, "of the first step, which alone is on-policy"


def test_batch_without_any_signal_skips_the_update():
    workers = FakeLearners()
    assert learn(workers, [[], []], Loss("grpo")) == {"skipped": 1.0, "tokens": 0.0}
    assert workers.batches == []


def test_figures_of_a_worked_batch():
    batch = [
        trajectory(0, 0, 1.0, logprob=-0.1, metrics={"calls": 2.0}),
        trajectory(0, 1, 0.0, status="truncated", sampled=4, logprob=-0.4),
        trajectory(1, 0, 0.0, status="timed_out", logprob=-9.0),
        trajectory(1, 1, 1.0, logprob=-0.1, metrics={"calls": 1.0}),
    ]
    found = describe(batch)
    assert found["reward"] == pytest.approx(2 / 3)
    assert found["failed_episodes"] == 1.0
    assert found["truncated"] == 0.25
    assert found["groups_without_signal"] == 0.5
    assert found["sampled_tokens"] == 8.0
    assert found["rollout_entropy"] == pytest.approx((4 * 0.1 + 4 * 0.4) / 8)
    assert found["completion_tokens"] == pytest.approx(8 / 3)
    assert found["episode_tokens"] == pytest.approx((3 + 5 + 3) / 3)
    assert found["env/calls"] == 1.0
    assert {name: found[f"status/{name}"] for name in STATUSES} == {
        "finished": 0.5, "truncated": 0.25, "tool_error": 0.0, "environment_error": 0.0, "timed_out": 0.25,
    }  # fmt: skip


def test_batch_in_which_every_episode_failed_still_has_figures():
    found = describe([trajectory(0, s, 0.0, status="environment_error") for s in range(2)])
    assert (found["reward"], found["failed_episodes"], found["sampled_tokens"]) == (0.0, 2.0, 0.0)


def test_a_step_in_which_every_episode_failed_stops_the_run(tmp_path):
    failed = [trajectory(0, s, 0.0, status="environment_error") for s in range(2)]
    failed[0].error = "KeyError: 'tool'"
    check_usable([*failed, trajectory(1, 0, 0.0)], 4, run_config(), tmp_path)
    with pytest.raises(RuntimeError) as stopped:
        check_usable(failed, 4, run_config("rollout.workers=1"), tmp_path)
    assert str(stopped.value) == (
        "all 2 episodes of training step 4 failed, the first one as environment_error: KeyError: 'tool'. "
        f"The traceback is in {tmp_path}/logs/rollout-0.log. "
        "Try it alone: `rejuvenate env check rejuvenate/Arithmetic-v0`."
    )
    (tmp_path / "checkpoints" / "step_000002").mkdir(parents=True)
    with pytest.raises(RuntimeError, match=r"resume=true goes on from the checkpoint step_000002\."):
        check_usable(failed, 4, run_config(), tmp_path)
