"""Shrink and perturb (arXiv 1910.08475, section 4): weights closer to 0, and noise on them. Needs no base."""

from __future__ import annotations

from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place
from rejuvenation.fusions.noise import normal


class ShrinkAndPerturb(Fusion):
    """shrink * sft + noise * r * N(0, 1), r the root mean square of the matrix; vectors (norms, biases) stay (ours)."""

    keeps_equal = False
    measures = True

    def __init__(self, shrink: float, noise: float, seed: int) -> None:
        self.shrink, self.noise, self.seed = shrink, noise, seed

    def skips(self, place: Place) -> bool:
        """Only matrices are changed."""
        return len(place.shape) < 2

    def measure(self, place: Place, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """[2]: sum of squares, number of entries."""
        values = sft.reshape(-1)
        return torch.tensor([values.dot(values).item(), values.numel()], dtype=torch.float64)

    def settle(self, place: Place, total: torch.Tensor) -> float:
        """Standard deviation of the noise."""
        return self.noise * (total[0] / total[1]).sqrt().item()

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        shrunk = sft.mul_(self.shrink)
        return shrunk.add_(normal(place, sft, self.seed).to(sft.dtype), alpha=facts) if facts else shrunk
