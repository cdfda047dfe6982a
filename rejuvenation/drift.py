"""How far SFT moved the weights: ||sft - base|| / ||base|| (Frobenius) by group of tensors."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator

import torch

from rejuvenation.alignment import Alignment
from rejuvenation.blocks import Block, Workspace, blocks_of, in_order, workers
from rejuvenation.checkpoint import TensorEntry
from rejuvenation.fused import is_real
from rejuvenation.neurons import KINDS, group_of

GROUPS = (*KINDS, "norms", "embeddings", "other", "all")
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


class DriftMeter:
    """Adds up drift block by block, from several threads and in any order, to sums that depend on neither.

    Args:
        alignment: the two checkpoints.
    """

    def __init__(self, alignment: Alignment) -> None:
        self.alignment = alignment
        self._workspace = Workspace()
        self._parts: dict[str, array[float]] = {name: array("d") for name in alignment.sft.entries}
        """By tensor, three numbers for each block: its first row, ||sft - base||^2, ||base||^2."""

    def measure(self, block: Block) -> None:
        """Take one block into account; one whose dtype has no arithmetic is left out (see `unmeasured`)."""
        dtype = self.alignment.sft.entries[block.name].dtype
        base, sft = self.alignment.base_rows(*block), self.alignment.sft.rows(*block)
        if is_real(dtype) and is_real(base.dtype):
            wide = torch.promote_types(dtype, torch.float32)
            self.observe(block, self._workspace.copy("base", base, wide), self._workspace.copy("sft", sft, wide))

    def observe(self, block: Block, base: torch.Tensor, sft: torch.Tensor) -> None:
        """Take one block into account, given in float32 (or float64)."""
        delta = torch.sub(sft, base, out=self._workspace.empty("delta", sft.shape, sft.dtype)).view(-1)
        flat = base.reshape(-1)
        moved, norm = delta.dot(delta).item(), flat.dot(flat).item()
        self._parts[block.name].extend((block.start, moved, norm))

    def _sums(self) -> Iterator[tuple[str, float, float]]:
        """Tensor, ||sft - base||^2 and ||base||^2 of every tensor measured, added up in the order of its blocks."""
        for name in sorted(self._parts):
            parts = iter(self._parts[name])
            blocks = sorted(zip(parts, parts, parts, strict=True))
            if blocks:
                yield name, sum(moved for _, moved, _ in blocks), sum(norm for _, _, norm in blocks)

    def by_group(self) -> dict[str, float]:
        """Drift of q k v o gate up down, norms, embeddings, other, all; a group whose base norm is 0 is left out."""
        moved, norm = dict.fromkeys(GROUPS, 0.0), dict.fromkeys(GROUPS, 0.0)
        for name, of_delta, of_base in self._sums():
            for group in (group_of(name), "all"):
                moved[group] += of_delta
                norm[group] += of_base
        return {group: math.sqrt(moved[group] / norm[group]) for group in GROUPS if norm[group]}

    def by_module(self) -> dict[str, list[float | None]]:
        """Drift by kind of module (q k v o gate up down), one entry per layer, biases included.

        Kinds that the model does not have are left out; None where a layer has no such module, or only zeros in base.
        """
        sums: dict[tuple[str, int], tuple[float, float]] = {}
        for name, of_delta, of_base in self._sums():
            kind, layer = group_of(name), LAYER.search(name)
            if kind in KINDS and layer:
                moved, norm = sums.get((kind, int(layer[1])), (0.0, 0.0))
                sums[kind, int(layer[1])] = moved + of_delta, norm + of_base
        num_layers = 1 + max((layer for _, layer in sums), default=-1)
        found: dict[str, list[float | None]] = {}
        for kind in KINDS:
            if any(known == kind for known, _ in sums):
                pairs = [sums.get((kind, layer), (0.0, 0.0)) for layer in range(num_layers)]
                found[kind] = [math.sqrt(moved / norm) if norm else None for moved, norm in pairs]
        return found

    def by_tensor(self) -> dict[str, float]:
        """Drift of every tensor, in the order of their names; one whose base norm is 0 is left out."""
        return {name: math.sqrt(moved / norm) for name, moved, norm in self._sums() if norm}


def drift(alignment: Alignment) -> dict[str, float]:
    """Drift by group of tensors; what is left out is said by `unmeasured`. One pass over the weight files."""
    return measured(alignment).by_group()


def measured(alignment: Alignment) -> DriftMeter:
    """The meter after all blocks. One pass over the weight files."""
    meter = DriftMeter(alignment)
    with workers() as pool:
        in_order(pool, meter.measure, lambda _: None, blocks_of(alignment.sft.entries.values()))
    return meter


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
