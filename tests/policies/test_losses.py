from __future__ import annotations

import math

import pytest
import torch

from configs.algorithm import AlgorithmConfig
from policies.losses import LOSSES, Loss, LossInputs, dft, grpo, sft


def inputs(ratios: list[float], advantages: list[float], options: Loss, ref: list[float] | None = None) -> LossInputs:
    """Rollout log-probabilities of -1 each, and policy log-probabilities that make the given ratios."""
    policy = torch.tensor([math.log(r) - 1.0 for r in ratios], requires_grad=True)
    return LossInputs(
        policy_logprobs=policy,
        entropies=torch.zeros(len(ratios)),
        advantages=torch.tensor(advantages),
        rollout_logprobs=torch.full((len(ratios),), -1.0),
        ref_logprobs=None if ref is None else torch.tensor(ref),
        options=options,
    )


def test_grpo_clips_only_where_it_lowers_the_gain() -> None:
    given = inputs([1.5, 1.5, 0.5, 0.5, 1.1], [1.0, -1.0, 1.0, -1.0, 2.0], Loss("grpo", clip_low=0.2, clip_high=0.3))
    total, metrics = grpo(given)
    # min(ratio * A, clipped * A): 1.3, -1.5, 0.5, -0.8, 2.2
    assert float(total.detach()) == pytest.approx(-(1.3 - 1.5 + 0.5 - 0.8 + 2.2), rel=1e-5)
    assert float(metrics["clip_fraction"]) == 2.0
    assert float(metrics["ratio"]) == pytest.approx(5.1, rel=1e-5)
    total.backward()
    # d(-ratio * A)/d(logprob) = -ratio * A, and 0 where clipped
    assert given.policy_logprobs.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0, -2.2], rel=1e-5)


def test_on_policy_gradient_is_that_of_reinforce() -> None:
    given = inputs([1.0, 1.0], [2.0, -3.0], Loss("grpo"))
    total, metrics = grpo(given)
    total.backward()
    assert given.policy_logprobs.grad.tolist() == [-2.0, 3.0]
    assert float(metrics["clip_fraction"]) == 0.0
    assert float(metrics["approx_kl"]) == pytest.approx(0.0, abs=1e-6)


def test_kl_term_is_k3_and_zero_at_the_reference() -> None:
    total, metrics = grpo(inputs([1.0, 1.0], [0.0, 0.0], Loss("grpo", kl_coef=0.5), ref=[-1.0, -1.0 + math.log(2)]))
    k3 = 2.0 - math.log(2) - 1.0
    assert float(metrics["kl"]) == pytest.approx(k3, rel=1e-5)
    assert float(total.detach()) == pytest.approx(0.5 * k3, rel=1e-5)


def test_sft_is_cross_entropy() -> None:
    total, metrics = sft(inputs([1.0, 1.0, 1.0], [0.0] * 3, Loss("sft")))
    assert float(total.detach()) == pytest.approx(3.0)
    assert metrics == {}


def test_dft_weighs_each_token_by_its_probability() -> None:
    policy = torch.tensor([0.5, 0.25, 1.0]).log().requires_grad_()
    total, metrics = dft(LossInputs(policy, torch.zeros(3), torch.zeros(3), None, None, Loss("dft")))
    # -p log p: 1/2 ln 2 + 1/4 ln 4 + 0
    assert float(total.detach()) == pytest.approx(math.log(2.0), rel=1e-6)
    assert metrics == {}
    total.backward()
    assert policy.grad.tolist() == pytest.approx([-0.5, -0.25, -1.0], rel=1e-6)


def test_gradient_of_dft_at_the_logits_is_p_times_that_of_cross_entropy() -> None:
    targets = torch.tensor([0, 2, 1])
    gradients = {}
    for name in ("sft", "dft"):
        logits = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [5.0, -4.0, 0.0]], requires_grad=True)
        logprobs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        LOSSES[name](LossInputs(logprobs, logprobs.detach(), logprobs.detach(), None, None, Loss(name)))[0].backward()
        gradients[name] = logits.grad
    probabilities = logprobs.detach().exp()
    torch.testing.assert_close(gradients["dft"], probabilities[:, None] * gradients["sft"])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_is_a_sum_over_tokens(name: str) -> None:
    """Contract: the loss of a whole is the sum of the losses of its parts, so splits do not matter."""
    ratios, advantages, ref = [1.5, 0.4, 1.0, 0.9], [1.0, -1.0, 0.3, 2.0], [-1.0, -0.5, -2.0, -1.5]
    options = Loss(name, kl_coef=0.1)
    whole, metrics = LOSSES[name](inputs(ratios, advantages, options, ref))
    parts = [LOSSES[name](inputs([r], [a], options, [f])) for r, a, f in zip(ratios, advantages, ref, strict=True)]
    assert float(whole.detach()) == pytest.approx(sum(float(p.detach()) for p, _ in parts), rel=1e-5)
    for key, value in metrics.items():
        assert float(value) == pytest.approx(sum(float(m[key]) for _, m in parts), rel=1e-5, abs=1e-6)


def test_loss_takes_its_options_from_the_algorithm_section() -> None:
    config = AlgorithmConfig(name="dr_grpo", clip_low=0.1, clip_high=0.4, kl_coef=0.02)
    assert Loss.of(config, temperature=0.7) == Loss("dr_grpo", 0.7, 0.1, 0.4, 0.02)


def test_missing_inputs_and_bad_options_are_named() -> None:
    given = inputs([1.0], [1.0], Loss("grpo", kl_coef=0.1))
    with pytest.raises(ValueError, match="ref_logprobs"):
        grpo(given)
    given.rollout_logprobs = None
    with pytest.raises(ValueError, match="rollout_logprobs"):
        grpo(given)
    with pytest.raises(ValueError, match="dft, dr_grpo, grpo, sft"):
        Loss("ppo")
    with pytest.raises(ValueError, match="temperature"):
        Loss("grpo", temperature=0.0)
