from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.advantages import ADVANTAGES, dr_grpo, grpo


def test_grpo_divides_by_the_standard_deviation() -> None:
    # mean 0.25, population standard deviation sqrt(3) / 4
    assert grpo([1.0, 0.0, 0.0, 0.0]) == pytest.approx(
        [math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3)], rel=1e-5
    )


def test_dr_grpo_only_subtracts_the_mean() -> None:
    assert dr_grpo([1.0, 0.0, 0.0, 0.0]) == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@given(reward=st.floats(-1e6, 1e6), size=st.integers(1, 9))
def test_group_with_equal_rewards_gets_zero_advantage(name: str, reward: float, size: int) -> None:
    assert ADVANTAGES[name]([reward] * size, []) == [0.0] * size


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@given(rewards=st.lists(st.floats(-10, 10), min_size=2, max_size=9))
def test_advantages_sum_to_zero_and_keep_the_order(name: str, rewards: list[float]) -> None:
    found = ADVANTAGES[name](rewards, [])
    assert abs(sum(found)) < 1e-6 * max(1.0, max(map(abs, found)))
    assert found[rewards.index(max(rewards))] == max(found)


def test_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        grpo([0.0, float("nan")])
