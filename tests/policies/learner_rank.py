"""Learner groups of one and of two ranks: do what test_learner.py asks about and write down what they found.

`python tests/policies/learner_rank.py CHECKPOINT OUT PORT PORT`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import torch
from ranks import main

from configs.learner import LearnerConfig
from policies.batching import Sample
from policies.learner import Learner
from policies.losses import Loss

STAGES = {1: (0, 3), 2: (0, 1, 2, 3)}
BUDGETS = (64, 4096)
ROWS = 5
"""Positions whose logits are held at once, where the lm_head runs in pieces."""
BFLOAT16_STAGES = (1, 2, 3)
# Adam divides by |gradient|: where a gradient is near zero its first step is the sign of a rounding error. With eps far
# above the gradients the step is linear in them, so weights can be compared as closely as gradients.
LINEAR = {"lr": 0.1, "eps": 1.0, "weight_decay": 0.01}


def minibatch(size: int, seed: int, vocab: int = 40) -> list[Sample]:
    """Samples of very unequal length, several turns each."""
    rng = random.Random(seed)
    samples = []
    for _ in range(size):
        length = rng.choice((4, 7, 12, 30, 61))
        mask = [0, 0] + [int(rng.random() < 0.7) for _ in range(length - 3)] + [1]
        samples.append(
            Sample(
                token_ids=[rng.randrange(vocab) for _ in range(length)],
                loss_mask=mask,
                advantage=rng.gauss(0.0, 1.0),
                rollout_logprobs=[rng.uniform(-5.5, -3.5) * m for m in mask],
            )
        )
    return samples


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.named_weights()}


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    """Full gradients between `backward` and `step`, before clipping."""
    from deepspeed.utils import safe_get_full_grad

    found = {}
    for name, parameter in learner._engine.module.named_parameters():
        gradient = parameter.grad if learner.config.zero_stage == 0 else safe_get_full_grad(parameter)
        found[name.removeprefix("model.")] = gradient.clone()
    return found


def one_step(learner: Learner, samples: list[Sample], loss: Loss) -> dict[str, Any]:
    metrics = learner.backward(samples, loss)
    found = gradients(learner)
    metrics |= learner.step()
    return {"metrics": metrics, "gradients": found, "weights": weights(learner)}


def run_in_pieces(checkpoint: Path, ranks: int, rows: int | None) -> dict[str, Any]:
    """A step and scores with the lm_head running over at most `rows` positions at once (`None`: over all)."""
    samples = minibatch(14, seed=1)
    config = LearnerConfig(ranks=ranks, zero_stage=3, micro_batch_tokens=64, **LINEAR)
    learner = Learner(config, str(checkpoint), seed=0, load_weights=True)
    policy = learner._engine.module
    if rows is not None:
        policy.logits_per_piece = rows * policy.model.config.vocab_size
    learner.snapshot_reference()
    found = {"step": one_step(learner, samples, Loss("grpo", kl_coef=0.1))}
    longest = max(samples, key=lambda s: sum(s.loss_mask))
    found["one sample"] = one_step(learner, [longest], Loss("sft"))  # the second rank has a dummy only
    found["logprobs"] = learner.logprobs([s.token_ids for s in samples], 0.7)[0]
    found["reference"] = learner.reference_logprobs(samples, 0.7)
    learner.close()
    return found


def run_bfloat16(checkpoint: str, out: Path, ranks: int, stage: int) -> dict[str, Any]:
    """Gradients of one sample and of 64 micro-batches that are that sample each; then steps, saved and resumed."""
    sample = Sample([3, 8, 5, 9, 4, 7], [0, 0, 1, 1, 1, 1])
    config = LearnerConfig(ranks=ranks, zero_stage=stage, dtype="bfloat16", micro_batch_tokens=6, lr=1e-3)
    learner = Learner(config, checkpoint, seed=0, load_weights=True)
    start = weights(learner)
    few = one_step(learner, [sample] * ranks, Loss("sft"))["gradients"]
    learner.load_weights(start.items())
    many = one_step(learner, [sample] * ranks * 64, Loss("sft"))["gradients"]
    learner.save(out / f"checkpoint_bfloat16_{stage}")
    uninterrupted = one_step(learner, minibatch(6, seed=2), Loss("grpo"))
    learner.close()
    learner = Learner(config, checkpoint, seed=1)
    learner.load(out / f"checkpoint_bfloat16_{stage}")
    resumed = one_step(learner, minibatch(6, seed=2), Loss("grpo"))
    learner.close()
    return {"few": few, "many": many, "uninterrupted": uninterrupted, "resumed": resumed, "start": start}


def run_rank(checkpoint: str, out: Path, ranks: int, rank: int) -> dict[Any, Any]:
    results: dict[str, Any] = {}
    samples = minibatch(14, seed=1)
    for stage in STAGES[ranks]:
        budgets = BUDGETS if stage in (0, 3) else BUDGETS[:1]
        for budget in budgets:
            config = LearnerConfig(ranks=ranks, zero_stage=stage, micro_batch_tokens=budget, grad_clip=0.5, **LINEAR)
            learner = Learner(config, checkpoint, seed=0, load_weights=True)
            if budget == BUDGETS[0]:
                results["start", stage] = weights(learner)
            results["step", stage, budget] = one_step(learner, samples, Loss("grpo", temperature=0.8, clip_high=0.3))
            if budget != budgets[-1]:
                learner.close()

        config = LearnerConfig(ranks=ranks, zero_stage=stage, micro_batch_tokens=100, lr=1e-3, warmup_steps=3)
        learner.config = config
        learner.load_weights(results["start", stage].items())  # over a trained policy, as between two arms of a study
        results["reloaded", stage] = weights(learner)
        learner.snapshot_reference()
        results["logprobs", stage] = learner.logprobs([s.token_ids for s in samples], 0.7)
        results["one sample", stage] = one_step(learner, samples[:1], Loss("sft"))  # the second rank has a dummy only
        results["empty"] = learner.update([Sample([1, 2, 3], [0, 0, 0])], Loss("sft"))

        results["lr"] = [learner.update(samples, Loss("grpo", kl_coef=0.1))["lr"] for _ in range(2)]
        results["kl", stage] = learner.update(samples, Loss("grpo", kl_coef=0.1))
        results["reference", stage] = learner.reference_logprobs(samples, 0.7)
        learner.save(out / f"checkpoint_{ranks}_{stage}")
        random_before = torch.rand(3)
        metrics = [learner.update(samples, Loss("grpo", kl_coef=0.1)) for _ in range(2)]
        results["uninterrupted", stage] = (metrics, weights(learner), random_before)
        learner.close()

        learner = Learner(config, checkpoint, seed=1)
        learner.load(out / f"checkpoint_{ranks}_{stage}")
        random_before = torch.rand(3)
        metrics = [learner.update(samples, Loss("grpo", kl_coef=0.1)) for _ in range(2)]
        results["resumed", stage] = (metrics, weights(learner), random_before)
        learner.close()
    if ranks == 2:
        for name in ("tied", "untied"):
            for rows in (None, ROWS):
                results["pieces", name, rows] = run_in_pieces(out / name, ranks, rows)
        for stage in BFLOAT16_STAGES:
            results["bfloat16", stage] = run_bfloat16(checkpoint, out, ranks, stage)
    return results


if __name__ == "__main__":
    sys.exit(main(run_rank, *sys.argv[1:]))
