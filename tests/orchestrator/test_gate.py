from orchestrator.gate import Measured, decide


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
