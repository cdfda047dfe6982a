"""Spike clip: no entry may be far out of the ordinary of its tensor (the spikes of arXiv 2606.09932; rule ours)."""

from __future__ import annotations

from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place


class SpikeClip(Fusion):
    """base + clamp(delta, -limit * r, limit * r), r the root mean square of the tensor's delta."""

    measures = True

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def values(self, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """What is clipped."""
        return sft - base

    def measure(self, place: Place, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """[2]: sum of squares, number of entries."""
        values = self.values(base, sft).reshape(-1)
        return torch.tensor([values.dot(values).item(), values.numel()], dtype=torch.float64)

    def settle(self, place: Place, total: torch.Tensor) -> float:
        """The largest magnitude that stays."""
        return self.limit * (total[0] / total[1]).sqrt().item()

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        delta = self.values(base, sft)
        return torch.where(delta.abs() > facts, base + delta.clamp(-facts, facts), sft)


class WeightClip(SpikeClip):
    """clamp(sft, -limit * r, limit * r), r the root mean square of the tensor's weights: needs no base.

    Biases and norms stay: their entries are few, and large ones are how they work.
    """

    keeps_equal = False

    def skips(self, place: Place) -> bool:
        """Only matrices are clipped."""
        return len(place.shape) < 2

    def values(self, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """What is clipped."""
        return sft

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        return sft.clamp_(-facts, facts)
