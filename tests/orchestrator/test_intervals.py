import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.intervals import coverage
from orchestrator.intervals import paired, proportion


def test_worked_values_of_wilson_s_interval():
    # Newcombe 1998 (Statistics in Medicine 17), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for solved, tasks, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = proportion([1.0] * solved + [0.0] * (tasks - solved))
        assert (found.mean, found.low, found.high) == pytest.approx((solved / tasks, low, high), abs=5e-5)


def test_shares_that_are_all_0_or_1_count_as_tasks_however_many_samples_made_them():
    values = [1.0] * 7 + [0.0] * 13
    assert proportion(values, samples=16) == proportion(values)


def test_tasks_of_equal_shares_count_as_all_their_episodes():
    found = proportion([0.5] * 10, samples=8)
    assert (found.low, found.high) == pytest.approx(_wilson(40, 80))
    pair, one_each = proportion([0.5, 0.5], samples=1), proportion([1.0, 0.0])
    assert (pair.low, pair.high) == (one_each.low, one_each.high), "never more than the episodes there were"


def test_standard_errors_of_worked_values():
    assert proportion([1.0, 0.0, 1.0, 0.0]).error == pytest.approx(((1 / 3) / 4) ** 0.5)
    assert paired([1.0, 0.0, -1.0, 0.0]).error == pytest.approx(((2 / 3) / 4) ** 0.5)
    assert proportion([1.0]).error == paired([0.5, 0.5]).error == 0.0


def test_effective_number_of_episodes_of_a_worked_example():
    values = [0.25, 0.75] * 10  # variance between tasks 0.0625 * 20 / 19; binomial variance of one episode 0.25
    effective = 0.25 * 20 / (0.0625 * 20 / 19)
    assert effective == pytest.approx(76)
    found = proportion(values, samples=8)
    assert (found.low, found.high) == pytest.approx(_wilson(38, 76))


def _wilson(solved, episodes):
    found = proportion([1.0] * solved + [0.0] * (episodes - solved))
    return found.low, found.high


def test_no_task_solved_is_not_taken_for_certain():
    assert proportion([0.0] * 10).high == pytest.approx(0.2775, abs=1e-4)
    assert proportion([1.0]).low == pytest.approx(0.2065, abs=1e-4)
    with pytest.raises(ValueError, match="at least one task"):
        proportion([])
    with pytest.raises(ValueError, match="at least one task"):
        paired([])


@given(st.lists(st.integers(0, 8), min_size=1, max_size=30))
def test_interval_holds_the_mean_within_0_and_1_and_has_a_width(correct):
    found = proportion([c / 8 for c in correct], samples=8)
    assert 0.0 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= 1.0
    assert found.high - found.low > 0.01


def test_worked_value_of_the_paired_interval():
    # Agresti and Min's formula: (c - b) / (n + 2) and ((b + c + 1) - (c - b)^2 / (n + 2)) / (n + 2)^2
    lost, won, tasks = 1, 6, 50
    found = paired([1.0] * won + [-1.0] * lost + [0.0] * (tasks - won - lost))
    middle = (won - lost) / (tasks + 2)
    deviation = (won + lost + 1 - (won - lost) ** 2 / (tasks + 2)) ** 0.5 / (tasks + 2)
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((middle - 1.959964 * deviation, middle + 1.959964 * deviation))
    assert not found.excludes_zero()


def test_one_gain_in_ten_tasks_is_not_told_from_chance_and_eight_are():
    assert not paired([1.0] + [0.0] * 9).excludes_zero()
    assert paired([1.0] * 8 + [0.0] * 2).excludes_zero()
    assert paired([0.0] * 10).low < 0 < paired([0.0] * 10).high


@pytest.mark.parametrize(("alpha", "beta", "k"), [(0.3, 0.3, 1), (0.05, 1.0, 8), (5.0, 5.0, 4), (5.0, 5.0, 8)])
def test_interval_covers_the_truth_where_the_bootstrap_does_not(alpha, beta, k):
    ours, bootstrap = coverage(alpha, beta, k, tasks=20, draws=300)
    assert ours > 0.87, "95 % nominal"
    assert ours >= bootstrap
