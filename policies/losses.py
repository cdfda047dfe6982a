"""Losses by name: pure functions from token log-probabilities to a sum and sums of metrics.

A loss returns a SUM over loss-mask tokens; the caller divides by the number of such tokens in the whole minibatch,
over all micro-batches and ranks. So the gradient does not depend on how the minibatch is split. Metrics are sums too,
and are divided by the same number.

Legend: N loss-mask tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.algorithm import AlgorithmConfig


@dataclass(frozen=True, slots=True)
class Loss:
    """Which loss, and its coefficients."""

    name: str
    """A key of `LOSSES`."""
    temperature: float = 1.0
    """Log-probabilities are those of `softmax(logits / temperature)`, the distribution the rollout sampled from."""
    clip_low: float = 0.2
    """The importance ratio is clipped below at 1 - clip_low."""
    clip_high: float = 0.2
    """The importance ratio is clipped above at 1 + clip_high."""
    kl_coef: float = 0.0
    """Weight of the KL term to the reference."""

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise ValueError(f"Loss.name must be one of {', '.join(sorted(LOSSES))}, got {self.name!r}")
        if not self.temperature > 0:
            raise ValueError(
                f"Loss.temperature must be > 0, got {self.temperature}: greedy rollouts cannot be trained on"
            )

    @classmethod
    def of(cls, config: AlgorithmConfig, temperature: float) -> Loss:
        """The loss of an algorithm section, at the rollout's temperature."""
        return cls(config.name, temperature, config.clip_low, config.clip_high, config.kl_coef)


@dataclass(slots=True)
class LossInputs:
    """What a loss sees of a micro-batch: its loss-mask tokens, all tensors [N] float32."""

    policy_logprobs: Tensor
    """With gradient."""
    entropies: Tensor
    """In nats, without gradient."""
    advantages: Tensor
    """The sequence's advantage at each of its tokens."""
    rollout_logprobs: Tensor | None
    """Of the behaviour policy, as the engine sampled; the "old" policy of the ratio."""
    ref_logprobs: Tensor | None
    """Of the reference policy."""
    options: Loss
    """Coefficients."""


LossFunction = Callable[[LossInputs], tuple[Tensor, dict[str, Tensor]]]


def grpo(inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """GRPO at token level (arXiv 2402.03300) with asymmetric clipping (arXiv 2503.14476, Eq. 8 and 10).

    Per token: `-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) + kl_coef * k3`, where
    `ratio = exp(policy - rollout)` and `k3 = exp(ref - policy) - (ref - policy) - 1` (non-negative, unbiased where the
    tokens come from the policy). The engine's own log-probabilities are the old policy: the ratio is then the true
    importance weight of what was sampled, and no second forward pass is needed.

    Raises:
        ValueError: rollout_logprobs, or with a KL term ref_logprobs, are missing.
    """
    if inputs.rollout_logprobs is None:
        raise ValueError("the grpo loss needs rollout_logprobs of every sample")
    options = inputs.options
    log_ratio = inputs.policy_logprobs - inputs.rollout_logprobs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - options.clip_low, 1.0 + options.clip_high)
    gain = torch.minimum(ratio * inputs.advantages, clipped * inputs.advantages)
    total = -gain.sum()
    metrics = {}
    with torch.no_grad():
        metrics["ratio"] = ratio.sum()
        # Tokens whose gradient the clipping removed: the clipped branch was the smaller one.
        metrics["clip_fraction"] = (clipped * inputs.advantages < ratio * inputs.advantages).float().sum()
        metrics["approx_kl"] = (ratio - 1.0 - log_ratio).sum()  # k3 of rollout to policy, on the rollout's tokens
    if options.kl_coef > 0.0:
        if inputs.ref_logprobs is None:
            raise ValueError("kl_coef > 0 needs ref_logprobs of every sample (Learner.reference_logprobs)")
        back = inputs.ref_logprobs - inputs.policy_logprobs
        kl = (back.exp() - back - 1.0).sum()
        metrics["kl"] = kl.detach()
        total = total + options.kl_coef * kl
    return total, metrics


def sft(inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy of the loss-mask tokens."""
    return -inputs.policy_logprobs.sum(), {}


def dft(inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Dynamic Fine-Tuning (arXiv 2508.05629): cross entropy, each token weighted by its own probability.

    Per token `-sg(p) * log p`, where sg stops the gradient: the gradient is p times that of cross entropy, so tokens
    that the policy finds unlikely move it little.
    """
    logprobs = inputs.policy_logprobs
    return -(logprobs.detach().exp() * logprobs).sum(), {}


LOSSES: dict[str, LossFunction] = {"grpo": grpo, "dr_grpo": grpo, "sft": sft, "dft": dft}
"""Loss functions by name; `dr_grpo` differs from `grpo` in the advantages only."""
