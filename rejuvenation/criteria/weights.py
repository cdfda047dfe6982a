"""Criteria that look at no token: how far SFT moved a neuron's weights, and chance."""

from __future__ import annotations

import torch

from rejuvenation.alignment import Alignment
from rejuvenation.neurons import NeuronTable


def neuron_drift(alignment: Alignment, table: NeuronTable) -> torch.Tensor:
    """||W_i - W_base,i|| / ||W_base,i|| of every neuron's row (with its bias entry) or column: [neurons] float64.

    A neuron whose base is 0 and that moved comes first.
    """
    drift = torch.zeros(table.total, dtype=torch.float64)
    for module in table.modules:
        moved = torch.zeros(module.size, dtype=torch.float64)
        norm = torch.zeros_like(moved)
        for part in ("weight", "bias") if module.axis == 0 else ("weight",):
            name = f"{module.path}.{part}"
            if name in alignment.sft:
                base = alignment.base_tensor(name).double()
                delta = alignment.sft.tensor(name).double() - base
                across = [axis for axis in range(base.dim()) if axis != module.axis]
                moved += delta.square().sum(across) if across else delta.square()
                norm += base.square().sum(across) if across else base.square()
        drift[module.neurons] = torch.where(moved > 0, (moved / norm).sqrt(), 0.0)
    return drift


def random_neurons(total: int, count: int, seed: int) -> torch.Tensor:
    """[total] bool with `count` neurons drawn at random: the control of equal size."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]
    return torch.zeros(total, dtype=torch.bool).scatter_(0, order, True)
