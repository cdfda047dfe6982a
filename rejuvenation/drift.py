"""How far SFT moved the weights: ||sft - base|| / ||base|| (Frobenius) by group of tensors."""

from __future__ import annotations

import math

import torch

from rejuvenation.alignment import Alignment
from rejuvenation.blocks import Block, blocks_of, in_order, workers
from rejuvenation.checkpoint import TensorEntry
from rejuvenation.fusion import is_real
from rejuvenation.neurons import KINDS

GROUPS = (*KINDS, "norms", "embeddings", "other", "all")


class DriftMeter:
    """Adds up drift block by block, from several threads and in any order, to sums that depend on neither.

    Args:
        alignment: the two checkpoints.
    """

    def __init__(self, alignment: Alignment) -> None:
        self.alignment = alignment
        self._sums: dict[Block, tuple[float, float]] = {}

    def measure(self, block: Block) -> None:
        """Take one block into account; one whose dtype has no arithmetic is left out (see `unmeasured`)."""
        entry = self.alignment.sft.entries[block.name]
        if not is_real(entry.dtype):
            return
        wide = torch.promote_types(entry.dtype, torch.float32)
        base = self.alignment.base_rows(*block).to(wide).reshape(-1)
        delta = self.alignment.sft.rows(*block).to(wide, copy=True).reshape(-1).sub_(base)  # rows are the mapped file's
        self._sums[block] = delta.dot(delta).item(), base.dot(base).item()

    def by_group(self) -> dict[str, float]:
        """Drift of q k v o gate up down, norms, embeddings, other, all; a group whose base norm is 0 is left out."""
        moved, norm = dict.fromkeys(GROUPS, 0.0), dict.fromkeys(GROUPS, 0.0)
        for block in sorted(self._sums):
            for group in (group_of(block.name), "all"):
                moved[group] += self._sums[block][0]
                norm[group] += self._sums[block][1]
        return {group: math.sqrt(moved[group] / norm[group]) for group in GROUPS if norm[group]}


def drift(alignment: Alignment) -> dict[str, float]:
    """Drift by group of tensors; what is left out is said by `unmeasured`. One pass over the weight files."""
    meter = DriftMeter(alignment)
    with workers() as pool:
        for _ in in_order(pool, meter.measure, blocks_of(alignment.sft.entries.values())):
            pass
    return meter.by_group()


def unmeasured(alignment: Alignment) -> list[str]:
    """What the drift leaves out, as one note per dtype that has no arithmetic."""
    left_out: dict[torch.dtype, list[TensorEntry]] = {}
    for entry in alignment.sft.entries.values():
        if not is_real(entry.dtype):
            left_out.setdefault(entry.dtype, []).append(entry)
    return [
        f"{entries[0].name}{f' and {len(entries) - 1} more' if len(entries) > 1 else ''}: "
        f"dtype {str(dtype).removeprefix('torch.')}, left out of the drift"
        for dtype, entries in left_out.items()
    ]


def group_of(name: str) -> str:
    """The group that a tensor's drift counts in."""
    for kind, path in KINDS.items():
        if f".{path}." in name:
            return kind
    if "norm" in name:
        return "norms"
    return "embeddings" if "embed_tokens" in name or name.startswith("lm_head") else "other"
