import json
import math

import pytest

from configs.environment import EnvironmentConfig
from orchestrator.evaluating import measure
from orchestrator.evaluation import (
    Evaluation,
    SetResult,
    evaluate,
    evaluation_file,
    read_all,
    write,
)
from orchestrator.intervals import proportion
from orchestrator.task_sets import TaskSet
from policies.trajectory import Trajectory


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
    assert found["greedy_low"] == pytest.approx(0.15, abs=5e-3)
    assert found["greedy_high"] == pytest.approx(0.85, abs=5e-3)
    assert found["pass@1_se"] == pytest.approx(math.sqrt(sum((v - 7 / 16) ** 2 for v in (1, 0, 0.25, 0.5)) / 3 / 4))
    for name in ("pass@1", "pass@2"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_values_per_task():
    last = result(greedy=[1.0, 1.0, 1.0, 0.0], correct=[4, 2, 2, 0])
    assert last.per_task("greedy") == [1.0, 1.0, 1.0, 0.0]
    assert last.per_task("pass@1") == [1.0, 0.5, 0.5, 0.0]
    assert last.per_task("pass@k") == pytest.approx([1.0, 5 / 6, 5 / 6, 0.0])
    assert last.per_task("signal") == [0.0, 1.0, 1.0, 0.0]


def test_interval_counts_samples_where_there_are_some():
    found = result(greedy=[1.0, 0.0] * 5, correct=[2] * 10)
    assert found.interval("greedy") == proportion([1.0, 0.0] * 5)
    assert found.interval("pass@1") == proportion([0.5] * 10, samples=4)
    assert found.interval("pass@1").high < found.interval("greedy").high


def test_set_that_could_not_be_measured_has_no_figures_but_its_failures():
    broken = Evaluation(3, [result(greedy=[], correct=[], failed=7, name="tool"), result()])
    figures = broken.figures()
    assert {n: v for n, v in figures.items() if n.startswith("eval/tool/")} == {"eval/tool/failed": 7.0}
    assert figures["eval/heldout/greedy"] == 0.5


def test_evaluations_read_back_as_they_were_written_in_order_of_steps(tmp_path):
    (tmp_path / "evaluations").mkdir()
    written = [Evaluation(step, [result(), result(name="ood", kind="ood")]) for step in (0, 100, 20)]
    for evaluation in written:
        write(evaluation, evaluation_file(tmp_path, evaluation.step))
    (tmp_path / "evaluations" / ".step_000040.json.partial").write_text("{")
    assert read_all(tmp_path) == sorted(written, key=lambda e: e.step)


def test_evaluations_of_before_there_were_settings_are_read(tmp_path):
    (tmp_path / "evaluations").mkdir()
    old = {"name": "a", "kind": "id", "k": 2, "greedy": [1.0], "correct": [1], "samples": 2, "entropy": 0.1}
    content = {"step": 3, "sets": [old | {"truncated": 0.0, "failed": 0, "summary": {"greedy": 1.0}}]}
    evaluation_file(tmp_path, 3).write_text(json.dumps(content))
    (only,) = read_all(tmp_path)
    assert only.sets[0].measured
    assert only.sets[0].setting == {}


class FakeWorkers:
    """Solves even tasks greedily, and of task n the first n samples; the log-probability of every token is -0.5.

    The environment `broken` fails in every episode, `flaky` in task 0; `stuck` ends no episode at all.
    """

    def __init__(self):
        self.calls = []

    def generate(self, jobs, environment, sampling):
        self.calls.append((jobs, environment, sampling))
        if environment.id == "stuck":
            raise RuntimeError("8 of 8 episodes were not over after 600 s:\nall waited")
        out = []
        for job in jobs:
            solved = job.task_index % 2 == 0 if sampling.temperature == 0 else job.sample < job.task_index
            status = {3: "truncated", 2: "timed_out"}.get(job.sample, "finished")
            fails = environment.id == "broken" or (environment.id == "flaky" and job.task_index == 0)
            t = Trajectory(job.group, job.sample, {}, reward=0.1, metrics={"success": float(solved)}, status=status)
            t.token_ids, t.loss_mask, t.rollout_logprobs = [1, 2, 3], [0, 1, 1], [0.0, -0.5, -0.5]
            if fails:
                t.status, t.error = "environment_error", "KeyError:\n'x'"
            out.append(t)
        return out


def task_set(environment="id", **changes):
    fields = {"name": "a", "kind": "id", "tasks": 3, "sampled_tasks": 3, "samples": 4, "k": 2, "temperature": 0.7}
    return TaskSet(environment=EnvironmentConfig(environment, {"x": 2}), **{**fields, "max_tokens": 9, **changes})


def test_evaluation_counts_successes_per_task_and_shares_sampling_seeds_over_steps():
    workers = FakeWorkers()
    found = evaluate(workers, [task_set()], seed=5, step=20)
    (only,) = found.sets
    assert only.greedy == [1.0, 0.0, 1.0]
    assert only.correct == [0, 1, 2], "metrics['success'] counts, not the reward"
    assert only.entropy == pytest.approx(0.5)
    assert only.truncated == pytest.approx(0.25)
    assert only.failed == 3, "the third sample of each of three tasks was late"
    assert only.error == "timed_out: "
    assert only.setting["environment"] == {"id": "id", "kwargs": {"x": 2}, "wrappers": []}
    (greedy, env, cold), (sampled, _, warm) = workers.calls
    assert (len(greedy), len(sampled)) == (3, 12)
    assert env.kwargs == {"x": 2}
    assert (cold.temperature, cold.max_tokens, warm.temperature, warm.max_tokens) == (0.0, 9, 0.7, 9)
    assert len({job.seed for job in sampled}) == 12
    evaluate(workers, [task_set()], 5, step=40)
    assert [j.seed for j in workers.calls[3][0]] == [j.seed for j in sampled]
    evaluate(workers, [task_set(name="b")], 5, step=40)
    assert not {j.seed for j in workers.calls[5][0]} & {j.seed for j in sampled}


def test_every_set_is_measured_as_it_says():
    workers = FakeWorkers()
    sets = [
        task_set(),
        task_set("other", name="b", kind="ood", tasks=2, sampled_tasks=1, samples=2, k=1, temperature=1.5),
    ]
    first, second = evaluate(workers, sets, 5, 0).sets
    assert (second.kind, second.k, second.samples, len(second.greedy), second.correct) == ("ood", 1, 2, 2, [0])
    assert (first.k, first.samples) == (2, 4)
    assert [(env.id, s.temperature) for _, env, s in workers.calls] == [
        ("id", 0.0), ("id", 0.7), ("other", 0.0), ("other", 1.5)
    ]  # fmt: skip


def test_broken_environment_leaves_the_other_sets_their_results(caplog):
    workers = FakeWorkers()
    sets = [task_set("broken", name="x"), task_set(name="y"), task_set("flaky", name="z")]
    broken, whole, flaky = evaluate(workers, sets, 5, 0).sets
    assert not broken.measured
    assert broken.failed == 3
    assert broken.error == "all 3 greedy episodes failed, the first one as environment_error: KeyError: 'x'"
    assert "set x was not measured" in caplog.text
    assert len(workers.calls) == 5, "nothing is sampled in a broken environment"
    assert whole.greedy == [1.0, 0.0, 1.0]
    assert flaky.greedy == [0.0, 0.0, 1.0], "task 0 failed and counts as unsolved"
    assert flaky.failed == 1 + 4 + 2  # greedy and sampled episodes of task 0, and the late ones of the other two
    assert flaky.error == "environment_error: KeyError: 'x'"


def test_engines_that_give_up_on_a_set_stop_a_run_but_not_an_evaluation():
    with pytest.raises(RuntimeError, match="were not over"):
        evaluate(FakeWorkers(), [task_set("stuck")], 5, 0)
    found = measure(FakeWorkers(), task_set("stuck"), 5)
    assert (found.measured, found.error) == (False, "8 of 8 episodes were not over after 600 s:")


def test_without_a_success_metric_a_positive_reward_is_a_success():
    from orchestrator.evaluation import succeeded

    assert succeeded(Trajectory(0, 0, {}, reward=0.5))
    assert not succeeded(Trajectory(0, 0, {}, reward=0.0))
    assert not succeeded(Trajectory(0, 0, {}, reward=0.5, status="timed_out")), "what it had earned does not count"
