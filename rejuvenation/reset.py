"""Neuron reset (arXiv 2606.09932, Eq. 5), as a pure function on one tensor."""

from __future__ import annotations

import torch

from rejuvenation.fused import lerp


def reset(
    fused: torch.Tensor, base: torch.Tensor, selected: torch.Tensor, *, axis: int, target: str, strength: float
) -> torch.Tensor:
    """Overwrite the selected neurons of a fused weight or bias with their reset target (Eq. 5).

    Args:
        fused: [out, in] weight or [out] bias after fusion.
        base: the same tensor of the base checkpoint.
        selected: [size of `axis`] bool, the neurons to reset.
        axis: 0 where a neuron is a row (or an entry of a bias), 1 where it is a column.
        target: `base`, `zero`, or `fused` (nothing changes).
        strength: omega, the share of the way from the fused value to the target; 1 copies the target.

    Returns:
        A tensor like `fused`; neurons that are not selected keep their bytes.
    """
    if target == "fused" or not selected.any():
        return fused
    goal = base.to(fused.dtype) if target == "base" else torch.zeros_like(fused)
    goal = lerp(fused, goal, strength)
    mask = selected.reshape([-1 if dimension == axis else 1 for dimension in range(fused.dim())])
    return torch.where(mask, goal, fused)
