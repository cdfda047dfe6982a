"""Model breadcrumbs of one checkpoint (arXiv 2312.06795, section 3): neither the largest deltas nor the smallest."""

from __future__ import annotations

from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place
from rejuvenation.fusions.magnitudes import histogram, threshold


class Breadcrumbs(Fusion):
    """base + alpha * masked delta: the `spikes` largest entries of each delta go, the next `density` stay."""

    measures = True

    def __init__(self, alpha: float, density: float, spikes: float) -> None:
        self.alpha, self.density, self.spikes = alpha, density, spikes

    def measure(self, place: Place, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """[BINS] histogram of |delta|."""
        return histogram(sft - base)

    def settle(self, place: Place, total: torch.Tensor) -> tuple[float, float]:
        """The |delta| that stays: from, below."""
        return threshold(total, self.spikes + self.density), threshold(total, self.spikes, at_most=True)

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        delta = sft - base
        size = delta.abs()
        stays = (size >= facts[0]) & (size < facts[1]) & (delta != 0.0)
        return torch.where(stays, base + self.alpha * delta, base)
