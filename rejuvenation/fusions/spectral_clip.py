"""Spectral clip: no singular value of a matrix may be far above the others (ours). Needs no base."""

from __future__ import annotations

from typing import Any

import torch

from rejuvenation.fusions.fusion import Fusion, Place

MOST_COLUMNS = 8192
"""Of a matrix; its Gram matrix then takes half a gigabyte."""


class SpectralClip(Fusion):
    """W V diag(min(1, limit * r / s)) V^T for W = U diag(s) V^T, r the root mean square of the singular values s.

    V and s come from the Gram matrix W^T W in float64, which adds up over blocks of rows: 8 D^2 bytes for a matrix of D
    columns, for each block under way; so D is bounded. Embeddings and lm_head stay: their rows are tokens, of very
    unequal frequency.
    """

    keeps_equal = False
    measures = True

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def skips(self, place: Place) -> bool:
        """Only the matrices inside the layers are clipped."""
        return len(place.shape) != 2 or "embed_tokens" in place.name or place.name.startswith("lm_head")

    def measure(self, place: Place, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """[D, D] Gram matrix of the block's rows.

        Raises:
            ValueError: the matrix has more columns than `MOST_COLUMNS`.
        """
        if sft.shape[1] > MOST_COLUMNS:
            raise ValueError(
                f"tensor {place.name}: spectral_clip treats matrices of up to {MOST_COLUMNS} columns, got "
                f"{sft.shape[1]}; take fusion.weight_clip instead."
            )
        rows = sft.double()
        return rows.T @ rows

    def settle(self, place: Place, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """[D, k] the k directions above the limit, [k] what is taken off them; None where there is none."""
        squares, vectors = torch.linalg.eigh(total)
        values = squares.clamp_min(0.0).sqrt()
        most = self.limit * (squares.clamp_min(0.0).sum() / min(place.shape)).sqrt()
        if not (values > most).any():
            return None
        above = values > most
        return vectors[:, above].clone(), 1.0 - most / values[above]

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        if facts is None:
            return sft
        rows, (directions, taken) = sft.double(), facts
        return (rows - ((rows @ directions) * taken) @ directions.T).to(sft.dtype)
