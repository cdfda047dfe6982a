"""Neurons that do little or learn little, the criteria of plasticity work in deep RL."""

from __future__ import annotations

import torch

from rejuvenation.criteria.criterion import Criterion, ModuleView


class Dormancy(Criterion):
    """Dormant neurons first: smallest mean |activation| by the module's mean (ReDo, arXiv 2302.12902, Eq. 1)."""

    def score(self, view: ModuleView) -> torch.Tensor:
        """See `Criterion.score`."""
        return view.activations().abs()

    def rank(self, mean: torch.Tensor) -> torch.Tensor:
        """Minus the activity relative to the module's mean."""
        return -mean / mean.mean().clamp_min(torch.finfo(mean.dtype).tiny)


class GradientMagnitude(Dormancy):
    """Neurons that learn least first: smallest mean |gradient| of the gold logit (GraMa, arXiv 2505.24061)."""

    def score(self, view: ModuleView) -> torch.Tensor:
        """See `Criterion.score`."""
        return view.gradients_at_targets().abs()
