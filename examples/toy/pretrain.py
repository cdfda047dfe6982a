"""Pretraining of the math toy's base model, from nothing."""

from __future__ import annotations

from pathlib import Path

from examples.toy.checkpoint import new_model, save_checkpoint
from examples.toy.documents import batches
from examples.toy.tokenizer import build_tokenizer
from examples.toy.training import train

STEPS = 1500
WARMUP_STEPS = 100
DECAY_STEPS = 400
BATCH_SIZE = 128
PEAK_LEARNING_RATE = 2e-3


def learning_rate(step: int, steps: int = STEPS) -> float:
    """Warm up, stay, and fall linearly over the last steps to 2 % of the peak."""
    warmup = min(1.0, step / WARMUP_STEPS)
    decay = min(1.0, max(0.02, (steps - step) / DECAY_STEPS))
    return PEAK_LEARNING_RATE * warmup * decay


def pretrain(directory: Path, steps: int = STEPS, seed: int = 0) -> None:
    """Train the base model on freshly drawn documents and write its checkpoint.

    Args:
        directory: where the checkpoint goes.
        steps: optimizer steps; fewer than STEPS only make sense for trying things out.
        seed: of the weights and the documents.
    """
    model = new_model(seed)
    train(
        model,
        build_tokenizer(),
        batches(seed, BATCH_SIZE),
        steps=steps,
        learning_rate=lambda step: learning_rate(step, steps),
        betas=(0.9, 0.98),
        weight_decay=0.01,
        label="base",
    )
    save_checkpoint(model, directory)
