"""Pretraining of the toys' base models, from nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from examples.toy import math_documents, tool_documents
from examples.toy.checkpoint import new_model, save_checkpoint
from examples.toy.tokenizer import build_tokenizer
from examples.toy.training import Conversation, pooled_batches, train
from policies.rendering import Renderer


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What a base model reads, and how it is trained on it."""

    document: Callable[[random.Random], Conversation]
    """Draws one conversation."""
    length: Callable[[Conversation], int]
    """What conversations are sorted by, so that little is padded."""
    steps: int
    decay_steps: int
    """Last steps, over which the learning rate falls linearly to 2 % of the peak."""
    batch_size: int
    weight_decay: float
    warmup_steps: int = 100
    peak_learning_rate: float = 2e-3

    def learning_rate(self, step: int, steps: int) -> float:
        """Warm up, stay, fall."""
        warmup = min(1.0, step / self.warmup_steps)
        decay = min(1.0, max(0.02, (steps - step) / self.decay_steps))
        return self.peak_learning_rate * warmup * decay


PRETRAININGS = {
    "math": Pretraining(math_documents.document, math_documents.length, 1500, 400, 128, 0.01),
    "tool": Pretraining(tool_documents.document, len, 900, 300, 32, 0.0),
}


def pretrain(task: str, directory: Path, steps: int | None = None, seed: int = 0) -> None:
    """Train the base model of `task` on freshly drawn documents and write its checkpoint.

    Args:
        task: `math` or `tool`.
        directory: where the checkpoint goes.
        steps: optimizer steps in place of the task's own; fewer only make sense for trying things out.
        seed: of the weights and the documents.
    """
    recipe = PRETRAININGS[task]
    total = recipe.steps if steps is None else steps
    model = new_model(seed)
    train(
        model,
        Renderer(build_tokenizer()),
        pooled_batches(recipe.document, recipe.length, recipe.batch_size, seed),
        steps=total,
        learning_rate=lambda step: recipe.learning_rate(step, total),
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
        label=f"{task}, base:",
    )
    save_checkpoint(model, directory)
