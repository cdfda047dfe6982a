import pytest

from orchestrator.gate import Measured, decide, measure
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
        measure(run_config("environment.id=tests.orchestrator.relay:Relay"), Broken(), Parcel({}, []))
