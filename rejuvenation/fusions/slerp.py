"""Spherical interpolation (Shoemake 1985, "Animating rotation with quaternion curves"), tensor by tensor."""

from __future__ import annotations

import math
from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place

PARALLEL = 1e-4
"""Sine of the angle below which the arc is a straight line: linear interpolation then differs by rounding only."""


class Slerp(Fusion):
    """sin((1 - alpha) w) / sin(w) * base + sin(alpha w) / sin(w) * sft, w the angle between the two tensors.

    The norm changes evenly along the arc, where the chord of linear fusion shortens it in the middle.
    """

    measures = True

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def measure(self, place: Place, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """[3]: <base, sft>, ||base||^2, ||sft||^2."""
        a, b = base.reshape(-1), sft.reshape(-1)
        return torch.stack([a.dot(b), a.dot(a), b.dot(b)]).double()

    def settle(self, place: Place, total: torch.Tensor) -> tuple[float, float]:
        """Weights of base and sft."""
        product, base, sft = total.tolist()
        cosine = product / math.sqrt(base * sft) if base and sft else 1.0
        angle = math.acos(max(-1.0, min(1.0, cosine)))
        if abs(math.sin(angle)) < PARALLEL:
            return 1.0 - self.alpha, self.alpha
        return math.sin((1.0 - self.alpha) * angle) / math.sin(angle), math.sin(self.alpha * angle) / math.sin(angle)

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        return torch.where(base == sft, sft, sft * facts[1] + base * facts[0])
