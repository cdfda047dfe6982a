import json

import pytest

from policies.trajectory import Trajectory, TurnRecord


def two_turns():
    trajectory = Trajectory(group=3, sample=1, task={"a": 7})
    trajectory.add_environment_tokens([5, 6])
    trajectory.add_turn(TurnRecord([5, 6], [7, 1], [-0.5, -0.25], "stop", policy_version=4))
    trajectory.add_environment_tokens([8])
    trajectory.add_turn(TurnRecord([5, 6, 7, 1, 8], [9], [-2.0], "length", policy_version=5))
    return trajectory


def test_mask_is_one_exactly_on_what_the_engine_returned():
    trajectory = two_turns()
    assert trajectory.token_ids == [5, 6, 7, 1, 8, 9]
    assert trajectory.loss_mask == [0, 0, 1, 1, 0, 1]
    assert trajectory.rollout_logprobs == [0.0, 0.0, -0.5, -0.25, 0.0, -2.0]
    assert trajectory.policy_versions == [-1, -1, 4, 4, -1, 5]


def test_a_turn_leaves_its_own_prompt_record_alone():
    trajectory = two_turns()
    assert [turn.prompt_token_ids for turn in trajectory.turns] == [[5, 6], [5, 6, 7, 1, 8]]


def test_turn_sampled_from_another_prompt_is_refused():
    trajectory = Trajectory(group=0, sample=0, task={})
    trajectory.add_environment_tokens([5])
    with pytest.raises(AssertionError, match="another prompt"):
        trajectory.add_turn(TurnRecord([6], [7], [-1.0], "stop", 0))


def test_json_round_trip():
    trajectory = two_turns()
    trajectory.reward, trajectory.metrics, trajectory.status = 0.5, {"calls": 2.0}, "truncated"
    assert Trajectory.from_json(json.loads(json.dumps(trajectory.to_json()))) == trajectory
