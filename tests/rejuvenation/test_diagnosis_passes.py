from __future__ import annotations

import math
from itertools import combinations

import pytest

from rejuvenation.diagnostics.passes import Passes, pass_at_k, signal_share


def groups(samples: int, solved: int, size: int) -> list[int]:
    """Solved rollouts in every group of a size among the rollouts of a prompt."""
    rollouts = [1] * solved + [0] * (samples - solved)
    return [sum(group) for group in combinations(rollouts, size)]


@pytest.mark.parametrize("solved", range(7))
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_estimates_are_the_shares_of_all_groups_of_rollouts(solved: int, size: int) -> None:
    drawn = groups(6, solved, size)
    assert pass_at_k(6, solved, size) == pytest.approx(sum(count > 0 for count in drawn) / len(drawn))
    assert signal_share(6, solved, size) == pytest.approx(sum(0 < count < size for count in drawn) / len(drawn))


def test_worked_numbers() -> None:
    assert pass_at_k(8, 2, 4) == pytest.approx(1 - 15 / 70)  # C(6,4) / C(8,4)
    assert signal_share(8, 2, 4) == pytest.approx(1 - 15 / 70)  # two cannot fill a group of four
    assert signal_share(8, 5, 4) == pytest.approx(1 - 5 / 70)  # C(5,4) / C(8,4); three cannot fill one either
    assert signal_share(8, 8, 8) == signal_share(8, 0, 8) == 0.0


@pytest.mark.parametrize("p", [0.03, 0.5, 0.9])
def test_estimates_are_unbiased(p: float) -> None:
    n, g = 9, 4
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    expected = sum(chance * signal_share(n, c, g) for c, chance in enumerate(chances))
    assert expected == pytest.approx(1 - p**g - (1 - p) ** g)
    assert sum(chance * pass_at_k(n, c, g) for c, chance in enumerate(chances)) == pytest.approx(1 - (1 - p) ** g)


def test_summary_over_prompts() -> None:
    passes = Passes.of([0, 4, 2], samples=4, k=2, group_size=4)
    assert passes.pass_at_1 == pytest.approx(0.5)
    assert passes.pass_at_1_error == pytest.approx(0.5 / math.sqrt(3))  # 0, 1, 1/2: deviation 1/2
    assert passes.pass_at_k == pytest.approx((0 + 1 + 5 / 6) / 3)
    assert passes.gain == pytest.approx((5 / 6 - 1 / 2) / 3)
    assert passes.recovered == pytest.approx(passes.gain / 0.5)
    assert passes.signal_share == pytest.approx(1 / 3)
    assert Passes.of([4, 4], samples=4, k=2, group_size=4).recovered == 0.0  # nothing fails
