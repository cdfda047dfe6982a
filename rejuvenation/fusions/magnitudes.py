"""The size below which a given share of a tensor's entries lies, found block by block."""

from __future__ import annotations

import torch

BINS = 1 << 15
"""One for every bfloat16 that is not negative: a threshold is exact to 1 part in 128."""


def histogram(values: torch.Tensor) -> torch.Tensor:
    """[BINS] int64: how many entries have a magnitude of which bfloat16 (truncated); they add up over blocks."""
    bits = values.float().contiguous().view(torch.int32)
    return torch.bincount(((bits >> 16) & (BINS - 1)).reshape(-1), minlength=BINS)


def threshold(counts: torch.Tensor, share: float, *, at_most: bool = False) -> float:
    """The magnitude from which on the largest `share` of the entries lies.

    Args:
        counts: [BINS] of `histogram`.
        share: in [0, 1]; 0 gives infinity.
        at_most: whether a bin that holds more than what is still wanted counts as small; else as large.
    """
    wanted = round(share * int(counts.sum()))
    if wanted == 0:
        return float("inf")
    from_top = counts.flip(0).cumsum(0)
    bins = int((from_top <= wanted).sum()) if at_most else int((from_top < wanted).sum()) + 1
    edge = BINS - bins
    if edge == BINS:
        return float("inf")
    return torch.tensor([edge << 16], dtype=torch.int32).view(torch.float32).item()
