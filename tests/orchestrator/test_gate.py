import json

import pytest

from orchestrator.gate import Measured, decide, measure, pass_gate
from orchestrator.parcel import Parcel
from policies.trajectory import Trajectory
from tests.orchestrator.fakes import run_config


def test_larger_pass_at_k_is_kept_whatever_pass_at_1() -> None:
    rigid, supple = Measured(0.5, 0.52, 0.04), Measured(0.3, 0.8, 0.6)
    decision = decide(rigid, supple, 8, 64)
    assert decision.kept == "rejuvenated"
    assert "pass@8 is 0.520 before and 0.800 after" in decision.sentence
    assert "no repair needed" not in decision.sentence


def test_repair_that_loses_the_task_is_not_kept() -> None:
    decision = decide(Measured(0.2, 0.6, 0.5), Measured(0.0, 0.1, 0.1), 8, 64)
    assert decision.kept == "sft"
    assert decision.sentence.endswith("RL starts from the sft checkpoint; no repair needed")


def test_of_equal_pass_at_k_the_one_with_more_groups_to_learn_from_is_kept() -> None:
    solved, open_ended = Measured(1.0, 1.0, 0.0), Measured(0.7, 1.0, 0.9)
    assert decide(solved, open_ended, 8, 64).kept == "rejuvenated"
    assert decide(open_ended, solved, 8, 64).kept == "sft"
    assert decide(solved, solved, 8, 64).kept == "sft", "the same: the SFT checkpoint stays as it is"


def test_failed_episodes_are_said() -> None:
    decision = decide(Measured(0.2, 0.6, 0.5, 3), Measured(0.2, 0.7, 0.5), 8, 64)
    assert decision.sentence.endswith("(episodes whose environment failed: 3 and 0)")


def test_gate_on_a_broken_environment_is_no_decision(tmp_path) -> None:
    class Broken:
        def deliver(self, handles, version): ...

        def reset_prefix_cache(self): ...

        def generate(self, jobs, environment, sampling):
            return [
                Trajectory(job.group, job.sample, {}, status="environment_error", error="no database") for job in jobs
            ]

    with pytest.raises(RuntimeError, match="of the gate failed, the first one as environment_error: no database"):
        measure(run_config("environment.id=tests.orchestrator.relay:Relay"), Broken(), Parcel({}, []), 4)


def test_tasks_that_are_few_count_once_each(tmp_path) -> None:
    class Engines:
        def __init__(self):
            self.jobs = []

        def read(self, location):
            return Parcel({}, ["sft"])

        def deliver(self, handles, version):
            self.held = handles

        def reset_prefix_cache(self): ...

        def generate(self, jobs, environment, sampling):
            self.jobs.append(jobs)
            solved = self.held == ["repaired"]
            return [Trajectory(job.group, job.sample, {}, reward=float(solved)) for job in jobs]

    data = tmp_path / "tasks.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n}?", "answer": f"#### {n}"}) + "\n" for n in range(40)))
    config = run_config(
        "environment.id=envs.question_answer:QuestionAnswerEnv",
        f"environment.kwargs={{path: {data}, instruction: ''}}",
        "rejuvenation.gate_prompts=1000",
        "evaluation.samples=2",
        "evaluation.k=2",
    )
    engines = Engines()
    _, decision = pass_gate(config, engines, Parcel({}, ["repaired"]), tmp_path)
    tasks = {job.task_index for job in engines.jobs[0]}
    assert [len(jobs) for jobs in engines.jobs] == [2 * len(tasks)] * 2
    assert 0 < len(tasks) <= 40
    assert decision.sentence.startswith(
        f"gate: on {len(tasks)} training prompts pass@2 is 0.000 before and 1.000 after"
    )
    few = run_config("rejuvenation.gate_prompts=3", "evaluation.samples=2", "evaluation.k=2")
    (tmp_path / "few").mkdir()
    _, decision = pass_gate(few, engines, Parcel({}, ["repaired"]), tmp_path / "few")
    assert decision.sentence.startswith("gate: on 3 training prompts"), "an environment without an end has enough"
