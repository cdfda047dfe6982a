"""Plasticity of an SFT checkpoint next to its base, measured without RL: token entropy and drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from configs.rejuvenation import RejuvenationConfig
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.drift import drift
from rejuvenation.pairs import TokenPair
from rejuvenation.scored_model import entropies, load_model, put_weights

HIGH_ENTROPY = 0.5
"""A response token above this entropy, in nats, counts as a decision."""


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
