"""The two sides of the learner benchmark: `Learner.update`, and a bare torch loop on the same micro-batches."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from configs.learner import LearnerConfig
from policies.batching import Sample, collate, split

SEQUENCES = 256
SEED = 0
"""Of the samples, the same in every round, so that the best of several rounds compares like with like."""


def learner_config(threads: int) -> LearnerConfig:
    """Equal on both sides."""
    return LearnerConfig(threads=threads, lr=1e-5, grad_clip=1.0, micro_batch_tokens=4096)


def make_samples(seed: int) -> list[Sample]:
    """Sequences of unequal length: a prompt of 12 tokens and a completion of 8 to 48."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(SEQUENCES):
        length = int(rng.integers(8, 49))
        mask = [0] * 12 + [1] * length
        tokens = rng.integers(7, 60, size=len(mask)).tolist()
        samples.append(Sample(tokens, mask, float(rng.standard_normal()), [-4.0 * m for m in mask]))
    return samples


def serve_learner(connection: Connection, model_dir: str, threads: int, _: Any) -> None:
    """Our side."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    with __import__("socket").socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
    from policies.learner import Learner
    from policies.losses import Loss

    learner = Learner(learner_config(threads), model_dir, seed=0, load_weights=True)
    loss = Loss("grpo")
    connection.send("ready")
    while (seed := connection.recv()) is not None:
        samples = make_samples(seed)
        start = time.perf_counter()
        metrics = learner.update(samples, loss)
        seconds = time.perf_counter() - start
        connection.send((int(metrics["tokens"]), seconds))


def serve_bare(connection: Connection, model_dir: str, threads: int, _: Any) -> None:
    """The limit: a torch loop of under 40 lines that does the same optimizer step."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    config = learner_config(threads)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0)
    connection.send("ready")
    while (seed := connection.recv()) is not None:
        samples = make_samples(seed)
        start = time.perf_counter()
        tokens = sum(sum(s.loss_mask) for s in samples)
        for chosen in split([len(s.token_ids) for s in samples], config.micro_batch_tokens, 1)[0]:
            batch = collate(samples, chosen)
            logits = model(batch.input_ids, use_cache=False).logits.flatten(0, 1)[batch.positions]
            logprobs = torch.log_softmax(logits, -1).gather(-1, batch.targets[:, None])[:, 0]
            ratio = (logprobs - batch.rollout_logprobs).exp()
            clipped = ratio.clamp(0.8, 1.2)
            loss = -torch.minimum(ratio * batch.advantages, clipped * batch.advantages).sum() / tokens
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        connection.send((tokens, time.perf_counter() - start))
