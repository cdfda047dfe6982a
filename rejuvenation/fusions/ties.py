"""TIES merging of one checkpoint into its base (arXiv 2306.01708, section 3)."""

from __future__ import annotations

from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place
from rejuvenation.fusions.magnitudes import histogram, threshold


class Ties(Fusion):
    """base + alpha * trimmed delta: of each tensor's delta the `density` largest entries stay.

    With one task vector there are no signs to elect, so that trimming and scaling are all of the method.
    """

    measures = True

    def __init__(self, alpha: float, density: float) -> None:
        self.alpha, self.density = alpha, density

    def measure(self, place: Place, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """[BINS] histogram of |delta|."""
        return histogram(sft - base)

    def settle(self, place: Place, total: torch.Tensor) -> float:
        """The smallest |delta| that stays."""
        return threshold(total, self.density)

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        delta = sft - base
        stays = (delta.abs() >= facts) & (delta != 0.0)
        return torch.where(stays, base + self.alpha * delta, base)
