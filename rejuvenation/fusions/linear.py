"""Base-anchored fusion, as the paper has it (arXiv 2606.09932, Eq. 1), and the same with an alpha by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place
from rejuvenation.neurons import group_of


class Linear(Fusion):
    """alpha * sft + (1 - alpha) * base (Eq. 1; the same as WiSE-FT, arXiv 2109.01903, Eq. 1)."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def alpha_of(self, place: Place) -> float:
        """Weight of the SFT checkpoint in this tensor."""
        return self.alpha

    def skips(self, place: Place) -> bool:
        """Alpha 1 leaves the SFT checkpoint's bytes."""
        return self.alpha_of(place) == 1.0

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        alpha = self.alpha_of(place)
        return base if alpha == 0.0 else sft.mul_(alpha).add_(base.mul_(1.0 - alpha))


class GroupAlpha(Linear):
    """Linear fusion with an alpha of its own for some groups of tensors (ours).

    Args:
        alpha: of all other groups.
        by_group: group of tensors (`rejuvenation.neurons.group_of`) -> alpha.
    """

    def __init__(self, alpha: float, by_group: Mapping[str, float]) -> None:
        super().__init__(alpha)
        self.by_group = by_group

    def alpha_of(self, place: Place) -> float:
        """Weight of the SFT checkpoint in this tensor."""
        return self.by_group.get(group_of(place.name), self.alpha)
