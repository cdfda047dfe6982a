"""One learner rank in a process of its own: does what test_learner.py asks about and writes down what it found.

`python tests/policies/learner_rank.py CHECKPOINT OUT`, with RANK, WORLD_SIZE and the rest in the environment.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import torch

from configs.learner import LearnerConfig
from policies.batching import Sample
from policies.learner import Learner
from policies.losses import Loss

RANKS = int(os.environ["WORLD_SIZE"])
STAGES = (0, 3) if RANKS == 1 else (0, 1, 2, 3)
BUDGETS = (64, 150, 4096)
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


def main(checkpoint: str, out: Path) -> None:
    results: dict[str, Any] = {}
    samples = minibatch(14, seed=1)
    for stage in STAGES:
        for budget in BUDGETS if stage in (0, 3) else BUDGETS[:1]:
            config = LearnerConfig(ranks=RANKS, zero_stage=stage, micro_batch_tokens=budget, grad_clip=0.5, **LINEAR)
            learner = Learner(config, checkpoint, seed=0, load_weights=True)
            if budget == BUDGETS[0]:
                results["start", stage] = weights(learner)
            results["step", stage, budget] = one_step(learner, samples, Loss("grpo", temperature=0.8, clip_high=0.3))
            learner.close()
        config = LearnerConfig(ranks=RANKS, zero_stage=stage, micro_batch_tokens=100, lr=1e-3, warmup_steps=3)
        learner = Learner(config, checkpoint, seed=0)
        learner.load_weights(results["start", stage].items())
        results["reloaded", stage] = weights(learner)
        results["one sample", stage] = one_step(learner, samples[:1], Loss("sft"))  # the second rank has a dummy only
        results["empty"] = learner.update([Sample([1, 2, 3], [0, 0, 0])], Loss("sft"))

        learner.load_weights(results["start", stage].items())
        learner.snapshot_reference()
        results["logprobs", stage] = learner.logprobs([s.token_ids for s in samples], 0.7)
        results["lr"] = [learner.update(samples, Loss("grpo", kl_coef=0.1))["lr"] for _ in range(2)]
        results["kl", stage] = learner.update(samples, Loss("grpo", kl_coef=0.1))
        results["reference", stage] = learner.reference_logprobs(samples, 0.7)
        learner.save(out / f"checkpoint_{stage}")
        random_before = torch.rand(3)
        metrics = [learner.update(samples, Loss("grpo", kl_coef=0.1)) for _ in range(2)]
        results["uninterrupted", stage] = (metrics, weights(learner), random_before)
        learner.close()

        learner = Learner(config, checkpoint, seed=1)
        learner.load(out / f"checkpoint_{stage}")
        random_before = torch.rand(3)
        metrics = [learner.update(samples, Loss("grpo", kl_coef=0.1)) for _ in range(2)]
        results["resumed", stage] = (metrics, weights(learner), random_before)
        learner.close()
    torch.save(results, out / f"results_{learner.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
