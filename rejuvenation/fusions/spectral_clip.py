"""Spectral clip: no singular value of a matrix may be far above the others (ours). Needs no base."""

from __future__ import annotations

from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place


class SpectralClip(Fusion):
    """W V diag(min(1, limit * r / s)) V^T for W = U diag(s) V^T, r the root mean square of the singular values s.

    V and s come from the Gram matrix W^T W in float64, which adds up over blocks of rows; a matrix of D columns takes
    8 D^2 bytes. Embeddings and lm_head stay: their rows are tokens, of very unequal frequency.
    """

    keeps_equal = False
    measures = True

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def skips(self, place: Place) -> bool:
        """Only the matrices inside the layers are clipped."""
        return len(place.shape) != 2 or "embed_tokens" in place.name or place.name.startswith("lm_head")

    def measure(self, place: Place, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """[D, D] Gram matrix of the block's rows."""
        rows = sft.double()
        return rows.T @ rows

    def settle(self, place: Place, total: torch.Tensor) -> torch.Tensor | None:
        """[D, D] that the rows are multiplied by; None where no singular value is above the limit."""
        squares, vectors = torch.linalg.eigh(total)
        values = squares.clamp_min(0.0).sqrt()
        most = self.limit * (squares.clamp_min(0.0).sum() / min(place.shape)).sqrt()
        if not (values > most).any():
            return None
        factors = torch.where(values > most, most / values, 1.0)
        return (vectors * factors) @ vectors.T

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        return sft if facts is None else (sft.double() @ facts).to(sft.dtype)
