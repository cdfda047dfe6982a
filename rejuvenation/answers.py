"""Calibration pairs where none are given: the SFT checkpoint's own greedy answers to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from configs.rejuvenation import RejuvenationConfig
from rejuvenation.diagnostics.material import reader_of
from rejuvenation.diagnostics.rollouts import sample
from rejuvenation.pairs import TokenPair
from rejuvenation.scored_model import load_model
from rejuvenation.spread import device_of

ANSWER_TOKENS = 256
"""Longest answer."""
BATCH_SIZE = 32
"""Prompts answered at once."""


def greedy_answers(
    sft_dir: str | Path, prompts: Sequence[Sequence[int]], config: RejuvenationConfig
) -> list[TokenPair]:
    """Answer prompts greedily, each answer up to its end or `ANSWER_TOKENS`.

    Holds one model in memory, on `config.device`, whose memory is free again afterwards.

    Args:
        sft_dir: the SFT checkpoint.
        prompts: token ids, all used.
        config: device and dtype.

    Returns:
        One pair per prompt, in their order.
    """
    directory = Path(sft_dir)
    end_ids, _ = reader_of(directory)
    model = load_model(directory, config)
    device = device_of(model)
    answers = sample(
        model, prompts, 1, end_ids=end_ids, max_new_tokens=ANSWER_TOKENS, batch_size=BATCH_SIZE, seed=0, greedy=True
    )
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()  # other processes share the GPU
    return [pair for (pair,) in answers]
