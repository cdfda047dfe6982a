"""Pairs in padded batches, and the log-probabilities of their responses with gradients to the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rejuvenation.pairs import TokenPair
from rejuvenation.scored_model import HEAD_ALONE


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences padded on the right: under causal attention no token sees the padding, so none is masked."""

    token_ids: torch.Tensor
    """[B, T] int64."""
    mask: torch.Tensor
    """[B, T] bool: the positions whose hidden state predicts a response token."""
    weights: torch.Tensor
    """[B] float32: factor of each sequence's log-probability."""

    @property
    def num_tokens(self) -> int:
        """Response tokens."""
        return int(self.mask.sum())


def batches_of(
    pairs: Sequence[TokenPair], batch_tokens: int, device: torch.device, weights: Sequence[float] | None = None
) -> list[Batch]:
    """Batches of at most `batch_tokens` tokens with their padding, short pairs first; a longer pair is alone.

    Args:
        pairs: prompts and responses.
        batch_tokens: memory bound.
        device: where the batches go.
        weights: one factor per pair; 1 by default.
    """
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index].token_ids))
    groups: list[list[int]] = []
    for index in order:  # the newest pair of a group is its longest
        if not groups or (len(groups[-1]) + 1) * len(pairs[index].token_ids) > batch_tokens:
            groups.append([])
        groups[-1].append(index)
    return [
        _batch([pairs[i] for i in group], [weights[i] if weights else 1.0 for i in group], device) for group in groups
    ]


def _batch(pairs: Sequence[TokenPair], weights: Sequence[float], device: torch.device) -> Batch:
    longest = max(len(pair.token_ids) for pair in pairs)
    token_ids = torch.zeros(len(pairs), longest, dtype=torch.int64)
    mask = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for row, pair in enumerate(pairs):
        token_ids[row, : len(pair.token_ids)] = torch.tensor(pair.token_ids)
        mask[row, pair.positions.start : pair.positions.stop] = True
    return Batch(token_ids.to(device), mask.to(device), torch.tensor(weights).to(device))


def response_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probabilities of all response tokens of a batch, row by row: [response tokens], float32 or wider."""
    if model.config.model_type in HEAD_ALONE:
        hidden = model.model(input_ids=batch.token_ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[batch.mask])  # prompts need no logits, which are most of the memory
    else:
        logits = model(input_ids=batch.token_ids, use_cache=False).logits[batch.mask]
    gold = batch.token_ids.roll(-1, dims=1)[batch.mask]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.log_softmax(-1).gather(1, gold[:, None])[:, 0]


def text_loss(model: Any, batches: Sequence[Batch]) -> float:
    """Mean -log p per response token, in nats. Cost: one forward pass."""
    with torch.no_grad():
        total = sum(-response_logprobs(model, batch).sum().item() for batch in batches)
    return total / sum(batch.num_tokens for batch in batches)


@contextmanager
def trainable(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Let gradients reach the weights for a while; afterwards they are frozen and hold no gradient."""
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield parameters
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
