"""Log-probabilities and entropies of tokens under the policy.

Legend: B sequences, T tokens, N scored positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOGITS_PER_PIECE = 1 << 26
"""Logits held at once; beyond it the lm_head runs in pieces that are recomputed in the backward pass."""


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy, both of the tempered distribution `softmax(logits / temperature)`.

    Args:
        logits: [N, V], any floating dtype; reduced in float32.
        targets: [N] int64 token ids.
        temperature: above 0; the one the rollout was sampled with.

    Returns:
        logprobs [N] float32 with gradient, entropies [N] float32 in nats without.
    """
    scores = logits.float()
    if temperature != 1.0:
        scores = scores / temperature
    table = torch.log_softmax(scores, dim=-1)
    logprobs = table.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        frozen = table.detach()
        # xlogy-like: a logit of -inf has probability 0 and adds nothing, where 0 * -inf would be nan.
        entropies = -(frozen.exp() * frozen.clamp_min(-1e30)).sum(-1)
    return logprobs, entropies


class ScoredPolicy(nn.Module):
    """A causal language model whose forward scores given positions instead of returning all logits.

    The lm_head runs on the scored positions only: with a vocabulary of 150,000 it costs more than all layers of a small
    model, and prompts, tool outputs and padding need no logits. Sequences are padded on the right and attention is
    causal, so padding is never attended to and no attention mask is needed (which keeps the fast causal kernel).
    """

    def __init__(self, model: nn.Module, logits_per_piece: int = LOGITS_PER_PIECE) -> None:
        super().__init__()
        self.model = model
        self.logits_per_piece = logits_per_piece

    def pieces_needed(self, positions: int) -> int:
        """In how many pieces the lm_head must run over so many positions."""
        rows = max(1, self.logits_per_piece // self.model.config.vocab_size)
        return max(1, -(-positions // rows))

    def forward(
        self, input_ids: Tensor, positions: Tensor, targets: Tensor, temperature: float, pieces: int
    ) -> tuple[Tensor, Tensor]:
        """Score `targets` as the tokens that follow `positions`.

        Args:
            input_ids: [B, T] int64, right-padded.
            positions: [N] int64, index into the flattened [B * T]: where the predicting token stands.
            targets: [N] int64, the token that follows it.
            temperature: of the distribution scored.
            pieces: how often the lm_head runs, each time on its share of the positions, which may be none; at least
                `pieces_needed(N)`. The same on every rank: ZeRO-3 collects the lm_head's weight from all ranks each
                time.

        Returns:
            logprobs [N] float32 and entropies [N] float32 (no gradient).
        """
        hidden = self.model.model(input_ids=input_ids, use_cache=False).last_hidden_state
        hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
        if pieces == 1:
            return self._score(hidden, targets, temperature)
        parts = [
            # determinism_check: ZeRO-3 frees the weight between forward and recomputation, which is no error.
            checkpoint(self._score, h, t, temperature, use_reentrant=False, determinism_check="none")
            for h, t in zip(hidden.tensor_split(pieces), targets.tensor_split(pieces), strict=True)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _score(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        return token_logprobs(self.model.lm_head(hidden), targets, temperature)
