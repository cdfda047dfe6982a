"""Norm clip: a tensor may not move farther from its base than a share of the base's own size (ours)."""

from __future__ import annotations

import math
from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place


class NormClip(Fusion):
    """base + delta * min(1, ratio * ||base|| / ||delta||), Frobenius norms of the whole tensor."""

    measures = True

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def measure(self, place: Place, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """[2]: ||delta||^2, ||base||^2."""
        delta, anchor = (sft - base).reshape(-1), base.reshape(-1)
        return torch.stack([delta.dot(delta), anchor.dot(anchor)]).double()

    def settle(self, place: Place, total: torch.Tensor) -> float:
        """What the delta is multiplied by."""
        moved, norm = total.sqrt().tolist()
        return 1.0 if moved <= self.ratio * norm else self.ratio * norm / moved

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        if facts == 1.0 or not math.isfinite(facts):
            return sft
        return torch.where(base == sft, sft, base + facts * (sft - base))
