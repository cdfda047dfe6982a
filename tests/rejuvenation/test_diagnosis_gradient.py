from __future__ import annotations

import math

import pytest
import torch

from rejuvenation.diagnostics.gradient_signal import GradientSignal, gradient_signal, group_advantages
from rejuvenation.pairs import TokenPair
from tests.rejuvenation.tiny import qwen2, token_pairs


def rollouts(prompts: int, samples: int) -> list[list[TokenPair]]:
    responses = iter(token_pairs(prompts * samples, seed=3))
    return [
        [TokenPair(pair.prompt_ids, next(responses).response_ids) for _ in range(samples)]
        for pair in token_pairs(prompts, seed=4)
    ]


def objective(model: torch.nn.Module, pairs: list[TokenPair], advantages: list[float]) -> torch.Tensor:
    """The definition: one sequence at a time, no padding, one log-probability after the other."""
    total = torch.zeros(())
    for pair, advantage in zip(pairs, advantages, strict=True):
        logprobs = model(torch.tensor([pair.token_ids])).logits[0].log_softmax(-1)
        for position, token in zip(pair.positions, pair.response_ids, strict=True):
            total = total + advantage * logprobs[position, token]
    return total / len(pairs)


def test_advantages_are_those_of_grpo() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 0.0]) == pytest.approx([math.sqrt(3)] + [-1 / math.sqrt(3)] * 3, rel=1e-5)
    assert group_advantages([0.1, 0.1, 0.1]) == [0.0, 0.0, 0.0]


def test_numbers_follow_their_definition() -> None:
    signal = GradientSignal.of(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]), groups=4, groups_with_signal=3)
    assert signal.squared_norm == pytest.approx(4.0)  # <a, b>
    assert signal.noise == pytest.approx(1.0)  # |(2, 0)|^2 / 4
    assert (signal.snr, signal.snr_per_group) == pytest.approx((4.0, 1.0))
    assert signal.cosine == pytest.approx(4.0 / math.sqrt(20.0))


def test_signal_and_noise_are_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, spread = torch.tensor([1.0, -2.0, 0.5]), 0.7
    found = []
    for _ in range(4000):
        halves = [mean + spread * torch.randn(3, generator=generator) for _ in range(2)]
        found.append(GradientSignal.of(halves[0], halves[1], 2, 2))
    assert sum(signal.squared_norm for signal in found) / 4000 == pytest.approx(5.25, rel=0.03)
    assert sum(signal.noise for signal in found) / 4000 == pytest.approx(3 * spread**2 / 2, rel=0.03)


def test_halves_are_the_gradients_of_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    model = qwen2(0)
    drawn = rollouts(prompts=5, samples=4)
    rewards = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0] * 2]
    seen: list[torch.Tensor] = []
    of = GradientSignal.of
    monkeypatch.setattr(GradientSignal, "of", lambda a, b, *rest: seen.extend([a, b]) or of(a, b, *rest))
    signal = gradient_signal(model, drawn, rewards, group_size=2, batch_tokens=40)
    assert signal.groups == 8, "the fifth prompt has no partner"
    assert signal.groups_with_signal == 3  # 10 00, 11 10, 00 11, 01 00
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    model.requires_grad_(True)
    for half, gradient in enumerate(seen):
        pairs = [pair for prompt in (half, half + 2) for pair in drawn[prompt]]
        advantages = [
            advantage
            for prompt in (half, half + 2)
            for start in (0, 2)
            for advantage in group_advantages(rewards[prompt][start : start + 2])
        ]
        grads = torch.autograd.grad(objective(model, pairs, advantages), list(model.parameters()))
        expected = torch.cat([gradient.reshape(-1) for gradient in grads])
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    assert signal.squared_norm == pytest.approx(seen[0].dot(seen[1]).item(), rel=1e-4)


def test_batch_without_a_signal_gives_zeros() -> None:
    signal = gradient_signal(qwen2(0), rollouts(2, 2), [[1.0, 1.0], [0.0, 0.0]], group_size=2, batch_tokens=64)
    assert (signal.snr, signal.snr_per_group, signal.cosine, signal.squared_norm, signal.noise) == (0, 0, 0, 0, 0)
    assert (signal.groups, signal.groups_with_signal) == (2, 0)


def test_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        gradient_signal(qwen2(0), rollouts(2, 2), [[1.0, math.nan], [0.0, 0.0]], group_size=2, batch_tokens=64)
