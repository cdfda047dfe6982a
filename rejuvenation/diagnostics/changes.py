"""How much of what SFT changed is left once both checkpoints are rounded to bfloat16, as engines serve them."""

from __future__ import annotations

import torch

from rejuvenation.alignment import Alignment
from rejuvenation.blocks import Block, blocks_of, in_order, workers
from rejuvenation.drift import GROUPS, group_of
from rejuvenation.fused import is_real


def changed_shares(alignment: Alignment) -> dict[str, float]:
    """Share of weights with bf16(sft) != bf16(base), in [0, 1], by group of tensors, and of all.

    Updates smaller than half a bfloat16 step, 0.2 to 0.4 % of a weight, vanish in the cast (RL's own updates are
    mostly of that size). Cost: one pass over the weight files, a block at a time.

    Args:
        alignment: the two checkpoints; tensors whose dtype has no arithmetic are left out.
    """
    changed, count = dict.fromkeys(GROUPS, 0), dict.fromkeys(GROUPS, 0)
    entries = [entry for entry in alignment.sft.entries.values() if is_real(entry.dtype)]

    def of_block(block: Block) -> tuple[str, int, int]:
        base = alignment.base_rows(*block).to(torch.bfloat16)
        sft = alignment.sft.rows(*block).to(torch.bfloat16)
        return block.name, int((base != sft).sum()), sft.numel()

    def add(found: tuple[str, int, int]) -> None:
        name, different, numel = found
        for group in (group_of(name), "all"):
            changed[group] += different
            count[group] += numel

    with workers() as pool:
        in_order(pool, of_block, add, blocks_of(entries))
    return {group: changed[group] / count[group] for group in GROUPS if count[group]}
