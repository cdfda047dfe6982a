"""DARE: drop entries of the delta at random and rescale the rest (arXiv 2311.03099, Eq. 1 to 3)."""

from __future__ import annotations

from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place
from rejuvenation.fusions.noise import uniform


class Dare(Fusion):
    """base + alpha * m * delta / (1 - drop), m = 0 with chance `drop`: in expectation the linear fusion."""

    def __init__(self, alpha: float, drop: float, seed: int) -> None:
        self.alpha, self.drop, self.seed = alpha, drop, seed

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        stays = (uniform(place, sft, self.seed) >= self.drop) & (sft != base)
        return torch.where(stays, base + (self.alpha / (1.0 - self.drop)) * (sft - base), base)
