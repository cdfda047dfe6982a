"""How often sampling solves a prompt, and how often a GRPO group of samples has anything to learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rejuvenation.diagnostics.statistics import mean, standard_error


@dataclass(frozen=True, slots=True)
class Passes:
    """Shares of prompts, in [0, 1], with standard errors over prompts. Cost: the rollouts."""

    pass_at_1: float
    """Mean share of rollouts that solve their prompt."""
    pass_at_1_error: float
    """Its standard error."""
    pass_at_k: float
    """Chance that one of k rollouts solves the prompt."""
    pass_at_k_error: float
    """Its standard error."""
    gain: float
    """pass@k - pass@1: what sampling finds beyond the checkpoint's usual answer; RL lives on it."""
    gain_error: float
    """Its standard error, of the difference prompt by prompt."""
    recovered: float
    """(pass@k - pass@1) / (1 - pass@1): share of what usually fails that sampling finds; 0 where nothing fails."""
    signal_share: float
    """Expected share of GRPO groups whose rewards differ: E[1 - p^g - (1-p)^g]."""
    signal_share_error: float
    """Its standard error."""
    k: int
    """Rollouts of pass@k."""
    group_size: int
    """Rollouts of a group."""
    samples: int
    """Rollouts per prompt (n)."""
    solved: list[int]
    """[prompts] rollouts that solved the prompt (c)."""

    @classmethod
    def of(cls, solved: Sequence[int], samples: int, k: int, group_size: int) -> Passes:
        """Estimate all of it.

        Args:
            solved: [prompts] solved rollouts per prompt.
            samples: rollouts per prompt.
            k: at most `samples`.
            group_size: at most `samples`.
        """
        first = [count / samples for count in solved]
        best = [pass_at_k(samples, count, k) for count in solved]
        gain = [b - f for b, f in zip(best, first, strict=True)]
        signal = [signal_share(samples, count, group_size) for count in solved]
        failing = 1.0 - mean(first)
        return cls(
            pass_at_1=mean(first),
            pass_at_1_error=standard_error(first),
            pass_at_k=mean(best),
            pass_at_k_error=standard_error(best),
            gain=mean(gain),
            gain_error=standard_error(gain),
            recovered=mean(gain) / failing if failing > 0.0 else 0.0,
            signal_share=mean(signal),
            signal_share_error=standard_error(signal),
            k=k,
            group_size=group_size,
            samples=samples,
            solved=list(solved),
        )


def pass_at_k(samples: int, solved: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): unbiased estimate of 1 - (1-p)^k (arXiv 2107.03374, Eq. 1).

    Args:
        samples: n rollouts of one prompt.
        solved: c of them that solve it.
        k: at most n.
    """
    return 1.0 - math.comb(samples - solved, k) / math.comb(samples, k)


def signal_share(samples: int, solved: int, group_size: int) -> float:
    """1 - C(c, g) / C(n, g) - C(n-c, g) / C(n, g): unbiased estimate of 1 - p^g - (1-p)^g.

    It is the share of all groups of g among the n rollouts that hold both a solved and an unsolved one (ours: the
    argument of pass@k, applied to both ends). Putting c/n for p would be biased.

    Args:
        samples: n rollouts of one prompt.
        solved: c of them that solve it.
        group_size: g, at most n.
    """
    groups = math.comb(samples, group_size)
    return 1.0 - (math.comb(solved, group_size) + math.comb(samples - solved, group_size)) / groups
