from __future__ import annotations

import pytest
import torch

from rejuvenation.criteria.weights import random_neurons
from rejuvenation.neurons import Module, NeuronTable
from rejuvenation.selection import scopes, top_neurons, top_of, union

ALL = [slice(0, 10)]


def chosen(scores: list[float], rho: float, ranges: list[slice] = ALL, sign: str = "positive") -> list[int]:
    return top_neurons(torch.tensor([scores]), rho, ranges, sign)[0].nonzero()[:, 0].tolist()


def test_most_positive_scores_come_first() -> None:
    scores = [0.0, -9.0, 3.0, 1.0, 2.0, -1.0, 0.5, 0.4, 0.3, 0.2]
    assert chosen(scores, 0.2) == [2, 4]
    assert chosen(scores, 0.2, sign="absolute") == [1, 2]


@pytest.mark.parametrize(("rho", "count"), [(0.001, 1), (0.14, 1), (0.16, 2), (0.25, 2), (0.35, 4), (1.0, 10)])
def test_count_is_rounded_and_at_least_one(rho: float, count: int) -> None:
    # 0.25 * 10 = 2.5 and 0.35 * 10 = 3.5 round to even, as Python's round
    assert chosen([float(i) for i in range(10)], rho) == list(range(10 - count, 10))


def test_of_equal_scores_the_first_neuron_is_kept() -> None:
    assert chosen([1.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0, 0.0, 0.0, 3.0], 0.3) == [1, 2, 9]
    assert chosen([0.0] * 10, 0.3) == [0, 1, 2]


def test_each_target_token_keeps_its_own_neurons() -> None:
    scores = torch.zeros(2, 10)
    scores[0, 7] = scores[1, 3] = 1.0
    assert top_neurons(scores, 0.1, ALL, "positive").nonzero().tolist() == [[0, 7], [1, 3]]


def test_ranges_compete_separately() -> None:
    scores = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert chosen(scores, 0.4, [slice(0, 5), slice(5, 10)]) == [0, 1, 5, 6]


def two_layers() -> NeuronTable:
    sizes = {"q": 4, "k": 2, "v": 2, "o": 4, "gate": 5, "up": 5, "down": 5}
    modules, offset = [], 0
    for layer in range(2):
        for kind, size in sizes.items():
            modules.append(Module(layer, kind, f"model.layers.{layer}.{kind}", offset, size))
            offset += size
    return NeuronTable(tuple(modules))


def test_scopes_cover_every_neuron_once() -> None:
    table = two_layers()
    assert table.total == 54
    assert scopes(table, "global") == [slice(0, 54)]
    assert scopes(table, "per_layer") == [slice(0, 27), slice(27, 54)]
    per_module = scopes(table, "per_module")
    assert len(per_module) == 14
    assert [i for part in per_module for i in range(part.start, part.stop)] == list(range(54))


def test_masks_name_the_tensors_that_hold_selected_neurons() -> None:
    table = NeuronTable(
        (
            Module(0, "q", "a.q", 0, 3, has_bias=True),
            Module(0, "k", "a.k", 3, 2, has_bias=True),
            Module(0, "o", "a.o", 5, 3, has_bias=True),  # columns: the bias belongs to none of them
            Module(0, "up", "a.up", 8, 2),
        )
    )
    selected = torch.zeros(10, dtype=torch.bool)
    selected[[0, 2, 6, 9]] = True
    found = {name: (axis, mask.tolist()) for name, (axis, mask) in table.masks(selected).items()}
    assert found == {
        "a.q.weight": (0, [True, False, True]),
        "a.q.bias": (0, [True, False, True]),
        "a.o.weight": (1, [False, True, False]),
        "a.up.weight": (0, [False, True]),
    }


def test_union_holds_whatever_any_token_chose() -> None:
    assert union(torch.tensor([0, 3, 1, 0, 2]), None).tolist() == [False, True, True, False, True]


def test_cap_keeps_the_neurons_with_most_votes() -> None:
    votes = torch.tensor([1, 3, 1, 0, 2, 1, 0, 0, 0, 0])
    assert union(votes, 0.5).sum() == 5  # five are chosen: the cap is not passed
    assert union(votes, 0.3).nonzero()[:, 0].tolist() == [0, 1, 4]  # of equal votes the first
    assert union(votes, 0.01).nonzero()[:, 0].tolist() == [1]


def test_random_set_has_the_size_asked_for_and_follows_its_seed() -> None:
    first = random_neurons(100, 17, seed=0)
    assert first.sum() == 17
    assert torch.equal(first, random_neurons(100, 17, seed=0))
    assert not torch.equal(first, random_neurons(100, 17, seed=1))


def test_one_ranking_gives_exactly_the_count_over_all_ranges() -> None:
    ranking = torch.tensor([0.9, 0.1, 0.8, 0.3, 0.3, 0.2, 0.7])
    assert top_of(ranking, 3, [slice(0, 7)]).nonzero()[:, 0].tolist() == [0, 2, 6]
    # 3 of 7 over ranges of 3 and 4: 1.29 and 1.71, so one and two
    assert top_of(ranking, 3, [slice(0, 3), slice(3, 7)]).nonzero()[:, 0].tolist() == [0, 3, 6]
    assert top_of(ranking, 1, [slice(0, 1), slice(1, 7)]).sum() == 1, "fewer neurons than ranges"
    assert top_of(ranking, 7, [slice(0, 3), slice(3, 7)]).all()
