"""Plasticity of an SFT checkpoint next to its base, measured without RL: token entropy and drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from configs.rejuvenation import RejuvenationConfig
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader, TensorEntry
from rejuvenation.fusion import is_real
from rejuvenation.neurons import KINDS
from rejuvenation.pairs import TokenPair
from rejuvenation.scored_model import entropies, load_model, put_weights
from rejuvenation.writer import row_blocks

HIGH_ENTROPY = 0.5
"""A response token above this entropy, in nats, counts as a decision."""

SUMMED = 1 << 14
"""Elements added up by one reduction. From 32,768 on torch shares them among threads, and the rounding depends on how
many there are."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What over-training did to a checkpoint. Entropies are teacher-forced on the given responses, in nats."""

    entropy_base: float
    """Mean token entropy of Base."""
    entropy_sft: float
    """Mean token entropy of the SFT checkpoint."""
    high_entropy_share_base: float
    """Share of response tokens on which Base's entropy is above `HIGH_ENTROPY`."""
    high_entropy_share_sft: float
    """The same share for the SFT checkpoint."""
    drift: dict[str, float]
    """||sft - base|| / ||base|| by group of tensors: q k v o gate up down, norms, embeddings, other, all."""
    num_tokens: int
    """Response tokens measured."""

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain JSON values."""
        return asdict(self)


def diagnose(
    base_dir: str | Path, sft_dir: str | Path, pairs: Sequence[TokenPair], config: RejuvenationConfig | None = None
) -> Diagnosis:
    """Measure an SFT checkpoint against its base.

    Cost: one forward pass of each model per pair, and one pass over the weight files.

    Args:
        base_dir: base checkpoint.
        sft_dir: SFT checkpoint of the same architecture.
        pairs: prompts and responses, all used.
        config: device and dtype to measure on.

    Raises:
        ConfigError: a directory is no checkpoint, or the two do not match.
        ValueError: no pairs, or a tensor does not match.
    """
    if not pairs:
        raise ValueError("diagnose needs at least one calibration pair")
    alignment = Alignment(CheckpointReader(base_dir, "base"), CheckpointReader(sft_dir, "sft"))
    model = load_model(alignment.sft.directory, config or RejuvenationConfig())
    sft = torch.cat(entropies(model, pairs, "sft"))
    put_weights(model, alignment.base_items())
    base = torch.cat(entropies(model, pairs, "base"))
    return Diagnosis(
        entropy_base=base.mean().item(),
        entropy_sft=sft.mean().item(),
        high_entropy_share_base=(base > HIGH_ENTROPY).float().mean().item(),
        high_entropy_share_sft=(sft > HIGH_ENTROPY).float().mean().item(),
        drift=drift(alignment),
        num_tokens=len(sft),
    )


def drift(alignment: Alignment) -> dict[str, float]:
    """||sft - base|| / ||base|| (Frobenius) by group of tensors; a group with a zero base norm is left out.

    The sums do not depend on the number of threads. What is left out is said by `unmeasured`.
    """
    moved: dict[str, float] = {}
    norm: dict[str, float] = {}
    for name, entry in alignment.sft.entries.items():
        if not is_real(entry.dtype):
            continue
        for start, stop in row_blocks(entry):
            wide = torch.promote_types(entry.dtype, torch.float32)
            base = alignment.base_rows(name, start, stop).to(wide)
            delta = alignment.sft.rows(name, start, stop).to(wide) - base  # not in place: rows are the mapped file's
            block_moved, block_norm = sum_of_squares(delta), sum_of_squares(base)
            for group in (_group(name), "all"):
                moved[group] = moved.get(group, 0.0) + block_moved
                norm[group] = norm.get(group, 0.0) + block_norm
    order = [*KINDS, "norms", "embeddings", "other", "all"]
    return {group: math.sqrt(moved[group] / norm[group]) for group in order if norm.get(group)}


def sum_of_squares(values: torch.Tensor) -> float:
    """Sum of the squares in float64, whatever the number of threads.

    Args:
        values: any shape, float32 or float64; squared in its own dtype.
    """
    parts = values.reshape(-1).split(SUMMED)
    return sum(part.square().sum(dtype=torch.float64).item() for part in parts)


def unmeasured(alignment: Alignment) -> list[str]:
    """What `drift` leaves out, as one note per dtype that has no arithmetic."""
    left_out: dict[torch.dtype, list[TensorEntry]] = {}
    for entry in alignment.sft.entries.values():
        if not is_real(entry.dtype):
            left_out.setdefault(entry.dtype, []).append(entry)
    return [
        f"{entries[0].name}{f' and {len(entries) - 1} more' if len(entries) > 1 else ''}: "
        f"dtype {str(dtype).removeprefix('torch.')}, left out of the drift"
        for dtype, entries in left_out.items()
    ]


def _group(name: str) -> str:
    for kind, path in KINDS.items():
        if f".{path}." in name:
            return kind
    if "norm" in name:
        return "norms"
    return "embeddings" if "embed_tokens" in name or name.startswith("lm_head") else "other"
