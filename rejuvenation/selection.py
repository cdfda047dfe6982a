"""From scores to the reset set (arXiv 2606.09932, Eq. 4)."""

from __future__ import annotations

import math

import torch

from rejuvenation.neurons import NeuronTable


def scopes(table: NeuronTable, ranking: str) -> list[slice]:
    """Ranges of neurons that compete with each other: `global` | `per_layer` | `per_module` (of each layer)."""
    if ranking == "global":
        return [slice(0, table.total)]
    if ranking == "per_module":
        return [module.neurons for module in table.modules]
    assert ranking == "per_layer", ranking
    layers = [[module for module in table.modules if module.layer == layer] for layer in range(table.num_layers)]
    return [slice(modules[0].offset, modules[-1].neurons.stop) for modules in layers]


def top_neurons(scores: torch.Tensor, rho: float, ranges: list[slice], sign: str) -> torch.Tensor:
    """The best max(1, round(rho * n)) neurons of each range, per target token (Eq. 4).

    Args:
        scores: [targets, neurons].
        rho: share kept, in (0, 1].
        ranges: neurons that compete, of sizes n.
        sign: `positive` ranks signed scores, most positive first; `absolute` ranks magnitudes.

    Returns:
        [targets, neurons] bool. Of equal scores the neuron that comes first is kept.
    """
    ranked = scores.abs() if sign == "absolute" else scores
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    for part in ranges:
        values = ranked[:, part].cpu()
        count = max(1, round(rho * values.shape[1]))
        threshold = values.topk(count, dim=1).values[:, -1:]
        above, equal = values > threshold, values == threshold
        room = count - above.sum(1, keepdim=True)
        kept[:, part] = above | (equal & (equal.cumsum(1) <= room))
    return kept


def top_of(ranking: torch.Tensor, count: int, ranges: list[slice]) -> torch.Tensor:
    """The best `count` neurons by one ranking, each range giving as its size is (largest remainders first).

    Args:
        ranking: [neurons].
        count: at most the number of neurons.
        ranges: neurons that compete with each other.

    Returns:
        [neurons] bool. Of equal values the neuron that comes first is kept.
    """
    sizes = [part.stop - part.start for part in ranges]
    wanted = [count * size / sum(sizes) for size in sizes]
    counts = [math.floor(number) for number in wanted]
    by_remainder = sorted(range(len(ranges)), key=lambda index: (counts[index] - wanted[index], index))
    for index in by_remainder[: count - sum(counts)]:
        counts[index] += 1
    kept = torch.zeros(len(ranking), dtype=torch.bool)
    for part, number in zip(ranges, counts, strict=True):
        kept[part][torch.sort(ranking[part], descending=True, stable=True).indices[:number]] = True
    return kept


def union(votes: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Neurons that any target token chose; above `cap`, those with the most votes.

    Args:
        votes: [neurons] number of target tokens that chose each.
        cap: largest share of all neurons, or None. At least one neuron stays.

    Returns:
        [neurons] bool. Of equal votes the neuron that comes first is kept.
    """
    chosen = votes > 0
    if cap is None or int(chosen.sum()) <= cap * len(votes):
        return chosen
    count = max(1, math.floor(cap * len(votes)))
    order = torch.sort(votes, descending=True, stable=True).indices[:count]
    return torch.zeros_like(chosen).scatter_(0, order, True)
