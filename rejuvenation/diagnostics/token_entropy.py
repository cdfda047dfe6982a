"""How open a checkpoint's choices are: token entropy, its mean and its high positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

HIGH_ENTROPY = 0.5
"""A token above this entropy, in nats, counts as a decision."""
TOP_SHARE = 0.2
"""The most uncertain share of positions; most of what RL changes happens there (arXiv 2506.01939)."""


@dataclass(frozen=True, slots=True)
class TokenEntropy:
    """Entropy H_t = -sum over the vocabulary of p log p at every response position, in nats.

    Cost: one forward pass per response.
    """

    mean: float
    """Over all positions."""
    high_share: float
    """Share of positions above `HIGH_ENTROPY`."""
    top_mean: float
    """Mean over the `TOP_SHARE` of positions with the most entropy (one at least)."""
    num_tokens: int
    """Positions."""

    @classmethod
    def of(cls, entropy: torch.Tensor) -> TokenEntropy:
        """Summarise entropies.

        Args:
            entropy: [positions] float32, nats.
        """
        top = entropy.topk(max(1, round(TOP_SHARE * len(entropy)))).values
        return cls(
            mean=entropy.mean().item(),
            high_share=(entropy > HIGH_ENTROPY).float().mean().item(),
            top_mean=top.mean().item(),
            num_tokens=len(entropy),
        )
