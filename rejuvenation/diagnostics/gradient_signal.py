"""Whether two halves of a frozen rollout batch push the policy the same way: the gradient's signal-to-noise ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rejuvenation.diagnostics.batches import batches_of, response_logprobs, trainable
from rejuvenation.pairs import TokenPair

EPS = 1e-6
"""Keeps the advantage's division defined where rewards differ by rounding only."""


@dataclass(frozen=True, slots=True)
class GradientSignal:
    """The policy gradient of a frozen batch of GRPO groups, estimated twice, from disjoint halves A and B of them.

    With G = E[g_A] = E[g_B] and independent halves of equal size, <g_A, g_B> is an unbiased estimate of ||G||^2 and
    ||g_A - g_B||^2 / 4 one of E||(g_A + g_B) / 2 - G||^2, the noise of the whole batch (ours; the same split as in
    arXiv 1812.06162, appendix A). Their ratio is negative where the halves point apart. A batch whose groups all have
    equal rewards has no gradient: every number is 0. Cost: one forward and one backward pass per rollout with an
    advantage other than 0; memory for two gradients.
    """

    snr: float
    """<g_A, g_B> / (||g_A - g_B||^2 / 4): signal to noise of the whole batch, no unit; it grows with the batch."""
    snr_per_group: float
    """The same divided by the number of groups: comparable between batches of different sizes."""
    cosine: float
    """<g_A, g_B> / (||g_A|| ||g_B||); 0 where a half has no gradient."""
    squared_norm: float
    """<g_A, g_B>: the signal ||G||^2, per rollout, nats^2."""
    noise: float
    """||g_A - g_B||^2 / 4: the noise of the batch's mean gradient."""
    groups: int
    """Groups in both halves."""
    groups_with_signal: int
    """Groups among them whose rewards differ."""

    @classmethod
    def of(cls, half_a: torch.Tensor, half_b: torch.Tensor, groups: int, groups_with_signal: int) -> GradientSignal:
        """Compare two gradients.

        Args:
            half_a: [P] gradient of one half.
            half_b: [P] of the other.
            groups: in both together.
            groups_with_signal: of them.
        """
        product, squares = _dot(half_a, half_b), (_dot(half_a, half_a), _dot(half_b, half_b))
        noise = (squares[0] + squares[1] - 2.0 * product) / 4.0
        norms = math.sqrt(squares[0] * squares[1])
        snr = product / noise if noise > 0.0 else 0.0
        cosine = product / norms if norms > 0.0 else 0.0
        return cls(snr, snr / groups, cosine, product, noise, groups, groups_with_signal)


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """(r - mean) / (std + EPS) with the population's standard deviation; 0 where all are equal (arXiv 2402.03300)."""
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    centre = math.fsum(rewards) / len(rewards)
    spread = math.sqrt(math.fsum((reward - centre) ** 2 for reward in rewards) / len(rewards))
    return [(reward - centre) / (spread + EPS) for reward in rewards]


def gradient_signal(
    model: Any,
    rollouts: Sequence[Sequence[TokenPair]],
    rewards: Sequence[Sequence[float]],
    group_size: int,
    batch_tokens: int,
) -> GradientSignal:
    """Measure the gradient of the on-policy GRPO objective, the mean over rollouts of A_i * sum_t log p(y_t).

    Its ratio is 1, so nothing is clipped. Prompts go to the halves by turns, with all their groups; of an odd number
    the last one is left out.

    Args:
        model: the policy that the rollouts are of; frozen.
        rollouts: [prompts][n] sampled at temperature 1.
        rewards: [prompts][n].
        group_size: g, divides n.
        batch_tokens: bound on the tokens of one pass.

    Raises:
        ValueError: fewer than two prompts, or a reward is not finite.
    """
    if len(rollouts) < 2:
        raise ValueError("the gradient signal needs at least two prompts: one for each half of the batch")
    if not all(math.isfinite(reward) for of_prompt in rewards for reward in of_prompt):
        raise ValueError("a reward is not finite: check the reward function")
    even = len(rollouts) - len(rollouts) % 2
    with_signal = 0
    halves: list[torch.Tensor] = []
    device = next(model.parameters()).device
    with trainable(model) as parameters:
        for half in (0, 1):
            pairs: list[TokenPair] = []
            weights: list[float] = []
            count = 0
            for prompt in range(half, even, 2):
                count += len(rollouts[prompt])
                for start in range(0, len(rollouts[prompt]), group_size):
                    advantages = group_advantages(rewards[prompt][start : start + group_size])
                    with_signal += any(advantages)
                    for rollout, advantage in zip(rollouts[prompt][start:], advantages, strict=False):
                        if advantage:
                            pairs.append(rollout)
                            weights.append(advantage)
            for batch in batches_of(pairs, batch_tokens, device, weights):
                per_token = batch.weights[:, None].expand(batch.mask.shape)[batch.mask]
                objective = (per_token * response_logprobs(model, batch)).sum() / count
                objective.backward()  # type: ignore[no-untyped-call]
            halves.append(torch.cat([_taken(parameter) for parameter in parameters]))
    groups = sum(len(rollouts[prompt]) // group_size for prompt in range(even))
    return GradientSignal.of(halves[0], halves[1], groups, with_signal)


def _taken(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter's accumulated gradient as a vector, which leaves the parameter without one."""
    gradient = parameter.grad
    parameter.grad = None
    return torch.zeros_like(parameter).reshape(-1) if gradient is None else gradient.reshape(-1)


def _dot(one: torch.Tensor, other: torch.Tensor, step: int = 1 << 22) -> float:
    """Inner product in float64, a part at a time."""
    return math.fsum(a.double().dot(b.double()).item() for a, b in zip(one.split(step), other.split(step), strict=True))
