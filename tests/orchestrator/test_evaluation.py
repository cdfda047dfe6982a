import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.environment import EnvironmentConfig, EvaluationConfig, EvaluationSetConfig
from orchestrator.evaluation import Evaluation, SetResult, evaluate, pass_at_k, read_all, standard_error, write
from policies.trajectory import Trajectory


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [(8, 0, 8, 0.0), (8, 1, 8, 1.0), (8, 8, 1, 1.0), (4, 1, 1, 0.25), (4, 1, 2, 0.5), (4, 2, 2, 5 / 6), (5, 2, 3, 0.9)],
)
def test_pass_at_k_of_worked_examples(samples, correct, k, expected):
    assert pass_at_k(samples, correct, k) == pytest.approx(expected)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_k_subsets_with_a_success(case):
    samples, correct, k = case
    outcomes = [1] * correct + [0] * (samples - correct)
    subsets = list(itertools.combinations(outcomes, k))
    assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_standard_error_of_worked_values():
    assert standard_error([1.0, 0.0, 1.0, 0.0]) == pytest.approx(math.sqrt((1 / 3) / 4))
    assert standard_error([0.7]) == 0.0
    assert standard_error([2.0, 2.0, 2.0]) == 0.0


def result(**changes):
    fields = {"name": "heldout", "kind": "id", "k": 2, "greedy": [1.0, 0.0, 0.0, 1.0], "correct": [4, 0, 1, 2]}
    return SetResult(**{**fields, "samples": 4, "entropy": 0.3, "truncated": 0.25, **changes})


def test_summary_of_a_worked_result():
    found = result().summary()
    assert found["greedy"] == 0.5
    assert found["pass@2"] == pytest.approx((1 + 0 + 0.5 + 5 / 6) / 4)
    assert found["pass@1"] == pytest.approx(7 / 16)
    assert found["signal"] == 0.5, "1 of 4 and 2 of 4 differ within the group"
    assert found["entropy"] == 0.3


def test_evaluations_read_back_as_they_were_written_in_order_of_steps(tmp_path):
    (tmp_path / "evaluations").mkdir()
    written = [Evaluation(step, [result(), result(name="ood", kind="ood")]) for step in (0, 100, 20)]
    for evaluation in written:
        write(evaluation, tmp_path)
    (tmp_path / "evaluations" / ".step_000040.json.partial").write_text("{")
    assert read_all(tmp_path) == sorted(written, key=lambda e: e.step)


class FakeWorkers:
    """Solves even tasks greedily, and of task n the first n samples; the log-probability of every token is -0.5."""

    def __init__(self):
        self.calls = []

    def generate(self, jobs, environment, sampling):
        self.calls.append((jobs, environment, sampling))
        out = []
        for job in jobs:
            solved = job.task_index % 2 == 0 if sampling.temperature == 0 else job.sample < job.task_index
            status = {3: "truncated", 2: "timed_out"}.get(job.sample, "finished")
            t = Trajectory(job.group, job.sample, {}, reward=0.1, metrics={"success": float(solved)}, status=status)
            t.token_ids, t.loss_mask, t.rollout_logprobs = [1, 2, 3], [0, 1, 1], [0.0, -0.5, -0.5]
            out.append(t)
        return out


def test_evaluation_counts_successes_per_task_and_shares_sampling_seeds_over_steps():
    config = EvaluationConfig(
        samples=4, k=2, temperature=0.7, sets=[EvaluationSetConfig("a", tasks=3, kwargs={"x": 2})]
    )
    workers = FakeWorkers()
    environment = EnvironmentConfig("id", {"x": 1, "y": 1})
    found = evaluate(workers, environment, config, max_tokens=9, seed=5, step=20)
    (only,) = found.sets
    assert only.greedy == [1.0, 0.0, 1.0]
    assert only.correct == [0, 1, 2], "metrics['success'] counts, not the reward"
    assert only.entropy == pytest.approx(0.5)
    assert only.truncated == pytest.approx(0.25)
    assert only.failed == 3, "the third sample of each of three tasks was late"
    (greedy, env, cold), (sampled, _, warm) = workers.calls
    assert (len(greedy), len(sampled)) == (3, 12)
    assert env.kwargs == {"x": 2, "y": 1}
    assert (cold.temperature, warm.temperature, warm.max_tokens) == (0.0, 0.7, 9)
    assert len({job.seed for job in sampled}) == 12
    evaluate(workers, environment, config, 9, 5, step=40)
    assert [j.seed for j in workers.calls[3][0]] == [j.seed for j in sampled]


def test_without_a_success_metric_a_positive_reward_is_a_success():
    from orchestrator.evaluation import succeeded

    assert succeeded(Trajectory(0, 0, {}, reward=0.5))
    assert not succeeded(Trajectory(0, 0, {}, reward=0.0))
    assert not succeeded(Trajectory(0, 0, {}, reward=0.5, status="timed_out")), "what it had earned does not count"
