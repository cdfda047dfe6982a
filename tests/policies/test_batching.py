from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.batching import DUMMY, Sample, collate, pack_by_budget, split

LENGTHS = st.lists(st.integers(1, 60), max_size=40)


def test_groups_respect_the_padded_budget() -> None:
    assert pack_by_budget([10, 9, 5, 5, 1], budget=20) == [2, 3]  # 2 x 10, 3 x 5
    assert pack_by_budget([30, 2, 2], budget=20) == [1, 2]  # a longer one goes alone


def test_two_ranks_share_what_one_micro_batch_could_hold() -> None:
    assert split([4, 4, 4, 4], budget=100, ranks=2) == [[(0, 1)], [(2, 3)]]


def test_overlong_sequence_does_not_raise_the_budget_of_the_others() -> None:
    assert split([2, 1, 1], budget=1, ranks=1) == [[(0,), (1,), (2,)]]


def test_rank_without_samples_gets_a_dummy() -> None:
    assert split([7], budget=100, ranks=3) == [[(0,)], [DUMMY], [DUMMY]]


def test_longest_sequences_come_first_and_ties_by_index() -> None:
    assert split([2, 9, 2, 9], budget=18, ranks=1) == [[(1, 3), (0, 2)]]


@given(lengths=LENGTHS, budget=st.integers(1, 200), ranks=st.integers(1, 4))
def test_split_is_a_partition_within_budget_and_even(lengths: list[int], budget: int, ranks: int) -> None:
    parts = split(lengths, budget, ranks)
    assert len(parts) == ranks
    assert len({len(part) for part in parts}) == 1  # or a collective would hang
    groups = [group for part in parts for group in part if group]
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget
    needed = len(pack_by_budget(sorted(lengths, reverse=True), budget))
    assert sum(len(part) for part in parts) < needed + ranks


def test_collate_pads_right_and_predicts_from_the_token_before() -> None:
    samples = [
        Sample([5, 6, 7, 8], [0, 0, 1, 1], 2.0, [0.0, 0.0, -0.1, -0.2]),
        Sample([9, 4], [0, 1], -1.0, [0.0, -0.3]),
    ]
    batch = collate(samples, (0, 1))
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert batch.positions.tolist() == [1, 2, 4]
    assert batch.targets.tolist() == [7, 8, 4]
    assert batch.advantages.tolist() == [2.0, 2.0, -1.0]
    torch.testing.assert_close(batch.rollout_logprobs, torch.tensor([-0.1, -0.2, -0.3]))
    assert batch.ref_logprobs is None
    assert batch.scale == 1.0


def test_dummy_has_one_position_and_no_weight() -> None:
    batch = collate([], DUMMY)
    assert batch.scale == 0.0
    assert batch.positions.tolist() == [0]
    assert batch.rollout_logprobs is not None
    assert batch.ref_logprobs is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_ids": [1, 2], "loss_mask": [0]}, "one entry per token: 1 for 2"),
        ({"token_ids": [], "loss_mask": []}, "one entry per token"),
        ({"token_ids": [1, 2], "loss_mask": [1, 1]}, "start with 0"),
        ({"token_ids": [1, 2], "loss_mask": [0, 1], "rollout_logprobs": [0.0]}, "rollout_logprobs"),
    ],
)
def test_sample_refuses_lists_that_do_not_fit(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sample(**fields)
