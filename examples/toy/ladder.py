"""The math toy's SFT ladder: one run on few, easy problems; an early checkpoint is Mod, the last one is Over."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from envs.arithmetic import ArithmeticEnv
from examples.toy.checkpoint import load_model, save_checkpoint
from examples.toy.tokenizer import build_tokenizer
from examples.toy.training import Pair, train

MODERATE_STEPS = 20
OVER_STEPS = 800
EXAMPLES = 32
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
PROBLEMS = {"operations_min": 2, "operations_max": 2, "operand_max": 20}


def demonstrations(count: int, seed: int) -> list[Pair]:
    """Return the environment's own expert answers to `count` problems of its train split."""
    environment = ArithmeticEnv(**PROBLEMS, split="train", seed=seed)
    pairs = []
    for index in range(count):
        environment.reset(options={"task": environment.task(index)})
        messages = environment.demonstration()
        assert messages is not None
        user, assistant = messages
        pairs.append((user["content"], assistant["content"]))
    return pairs


def shuffled_passes(pairs: list[Pair], size: int, seed: int) -> Iterator[list[Pair]]:
    """Yield batches from shuffled passes over the data, without end."""
    rng = random.Random(seed)
    left: list[Pair] = []
    while True:
        if len(left) < size:
            left += rng.sample(pairs, len(pairs))
        yield left[:size]
        left = left[size:]


def climb(base: Path, rungs: dict[int, Path], seed: int = 0) -> None:
    """Fine-tune the base checkpoint and export every rung; after a warm-up the learning rate is constant.

    Args:
        base: the base checkpoint's directory.
        rungs: optimizer steps -> the directory that the checkpoint after so many steps goes to.
        seed: of the problems and their order; all rungs of one seed are points of the same run.
    """
    model = load_model(base)

    def export(step: int) -> None:
        if step in rungs:
            save_checkpoint(model, rungs[step])

    train(
        model,
        build_tokenizer(),
        shuffled_passes(demonstrations(EXAMPLES, seed), BATCH_SIZE, seed),
        steps=max(rungs),
        learning_rate=lambda step: LEARNING_RATE * min(1.0, step / WARMUP_STEPS),
        after_step=export,
        label="sft",
    )


def build_moderate(base: Path, directory: Path) -> None:
    """Rebuild Mod, which does not ship, from the shipped base checkpoint: a few seconds on two cores."""
    climb(base, {MODERATE_STEPS: directory})
