import numpy as np
import pytest

from orchestrator.bootstrap import Interval, interval


def test_equal_values_have_no_width():
    found = interval(np.full((5, 40), 0.25))
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).random((3, 20))
    assert interval(values, 500) == interval(values, 500)
    assert interval(values, 500) != interval(values, 500, seed=1)


def test_one_seed_and_problems_give_the_binomial_width():
    values = np.array([[1.0] * 50 + [0.0] * 50])
    found = interval(values)
    width = 1.96 * np.sqrt(0.25 / 100)
    assert found.mean == 0.5
    assert found.high - 0.5 == pytest.approx(width, rel=0.1)
    assert 0.5 - found.low == pytest.approx(width, rel=0.1)


def test_spread_over_seeds_counts_though_problems_agree():
    values = np.repeat(np.array([[0.0], [0.2], [0.4]]), 30, axis=1)
    found = interval(values)
    assert found.low < 0.1
    assert found.high > 0.3


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        problems = generator.normal(0.3, 0.5, size=(1, 60))
        values = problems + generator.normal(0, 0.2, size=(6, 1)) + generator.normal(0, 0.3, size=(6, 60))
        found = interval(values, 300, seed=trial)
        hits += found.low <= 0.3 <= found.high
    assert hits >= 86, "95 % nominal; six seeds make it a little less"


def test_zero_outside_or_inside():
    assert Interval(0.2, 0.1, 0.3, 0.1).excludes_zero()
    assert Interval(-0.2, -0.3, -0.1, 0.1).excludes_zero()
    assert not Interval(0.1, -0.1, 0.3, 0.1).excludes_zero()
    assert not Interval(0.1, 0.0, 0.3, 0.1).excludes_zero()
