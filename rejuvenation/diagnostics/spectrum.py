"""How many directions a weight matrix, or what SFT added to it, really uses: the effective rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from rejuvenation.alignment import Alignment
from rejuvenation.blocks import Block, row_blocks
from rejuvenation.checkpoint import TensorEntry
from rejuvenation.diagnostics.statistics import mean
from rejuvenation.drift import GROUPS, group_of
from rejuvenation.fused import is_real

Rows = Callable[[Block], torch.Tensor]
"""The values of a block of rows."""


def effective_rank(gram: torch.Tensor) -> float:
    """exp(-sum p log p) with p = sigma / sum(sigma) of the singular values (Roy, Vetterli 2007); 0 for a zero matrix.

    The squares of the singular values are the eigenvalues of the Gram matrix; below about 1e-8 of the largest they
    are lost in its rounding, where they count next to nothing.

    Args:
        gram: [side, side] float64, M M^T or M^T M.
    """
    singular = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()
    total = singular.sum()
    if total == 0.0:
        return 0.0
    return torch.special.entr(singular / total).sum().exp().item()


def gram_of(entry: TensorEntry, rows: Rows) -> torch.Tensor:
    """Gram matrix of the smaller side, in float64.

    A tall matrix is streamed in blocks of rows; of a wide one, whose rows are few, all of it is held in float64.

    Args:
        entry: shape and name of a matrix.
        rows: gives its values.

    Returns:
        [min(shape), min(shape)].
    """
    num_rows, num_columns = entry.shape
    if num_rows <= num_columns:
        matrix = torch.cat([rows(Block(entry.name, *block)).double() for block in row_blocks(entry)])
        return matrix @ matrix.T
    gram = torch.zeros(num_columns, num_columns, dtype=torch.float64)
    for start, stop in row_blocks(entry):
        part = rows(Block(entry.name, start, stop)).double()
        gram.addmm_(part.T, part)
    return gram


def rank_shares(entries: Iterable[TensorEntry], rows: Rows, max_side: int) -> dict[str, float]:
    """Effective rank / full rank, in [0, 1]: the mean over the matrices of each group (q k v o gate up down, ...).

    Cost: per matrix one product and one eigenvalue decomposition of its smaller side, O(side^2 * (other side + side)).

    Args:
        entries: tensors; those that are no matrices of real numbers are left out.
        rows: gives their values.
        max_side: matrices whose smaller side is longer are left out.
    """
    found: dict[str, list[float]] = {}
    for entry in entries:
        if _is_matrix(entry) and min(entry.shape) <= max_side:
            share = effective_rank(gram_of(entry, rows)) / min(entry.shape)
            for group in (group_of(entry.name), "all"):
                found.setdefault(group, []).append(share)
    return {group: mean(found[group]) for group in GROUPS if group in found}


def rank_of(alignment: Alignment, which: str, max_side: int) -> dict[str, float]:
    """`rank_shares` of two checkpoints.

    Args:
        alignment: the two.
        which: `base`, `sft`, or `delta`, their difference in float64.
        max_side: see `rank_shares`.
    """

    def rows(block: Block) -> torch.Tensor:
        if which == "base":
            return alignment.base_rows(*block)
        sft = alignment.sft.rows(*block)
        return sft if which == "sft" else sft.double() - alignment.base_rows(*block).double()

    return rank_shares(alignment.sft.entries.values(), rows, max_side)


def too_large(entries: Iterable[TensorEntry], max_side: int) -> list[str]:
    """A note on the matrices that `rank_shares` leaves out, if there are any."""
    names = [entry.name for entry in entries if _is_matrix(entry) and min(entry.shape) > max_side]
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{names[0]}{more}: sides above {max_side}, left out of the effective rank"]


def _is_matrix(entry: TensorEntry) -> bool:
    return is_real(entry.dtype) and len(entry.shape) == 2 and min(entry.shape) > 0
