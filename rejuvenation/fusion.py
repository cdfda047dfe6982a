"""Base-anchored fusion (arXiv 2606.09932, Eq. 1), as a pure function on one tensor."""

from __future__ import annotations

import torch


def lerp(base: torch.Tensor, sft: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return alpha * sft + (1 - alpha) * base: float32, rounded once to the dtype of `sft` (Eq. 1).

    The two products and the sum are each one IEEE operation (no fused multiply-add), so the bytes depend on no thread
    count, block size or instruction set. alpha 0 and 1, and entries on which both agree, are copied, not computed.

    Args:
        base: any shape and floating dtype.
        sft: the same shape; its dtype is the result's. float64 is computed in float64.
        alpha: weight of `sft`, in [0, 1].

    Raises:
        ValueError: the values differ and are not of a dtype that can be interpolated.
    """
    assert base.shape == sft.shape, (base.shape, sft.shape)
    if alpha == 1.0 or (base.dtype == sft.dtype and torch.equal(_bits(base), _bits(sft))):
        return sft
    if not (is_real(base.dtype) and is_real(sft.dtype)):
        raise ValueError(
            f"values of dtype {base.dtype} and {sft.dtype} differ and cannot be interpolated; use checkpoints in "
            "float64, float32, float16 or bfloat16."
        )
    if alpha == 0.0:
        return base.to(sft.dtype)
    wide = torch.promote_types(sft.dtype, torch.float32)
    fused = _scaled(sft, alpha, wide).add_(_scaled(base, 1.0 - alpha, wide))
    if sft.dtype == wide:  # a narrower dtype rounds alpha * x + (1 - alpha) * x back to x by itself
        return torch.where(base.to(wide) == sft, sft, fused)
    return fused.to(sft.dtype)


def is_real(dtype: torch.dtype) -> bool:
    """Whether values of a dtype can be interpolated and measured."""
    return dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _scaled(values: torch.Tensor, factor: float, wide: torch.dtype) -> torch.Tensor:
    """Return a new tensor factor * values in `wide`, with one temporary and no more."""
    if values.dtype == wide:  # the tensor is the caller's
        return values * factor
    return values.to(wide).mul_(factor)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes, so that -0.0 differs from 0.0 and a NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
