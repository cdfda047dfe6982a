"""What the math base model has read: chains of additions and subtractions modulo 100 in five answer styles.

The style the environment grades is rare, and one document in five has a wrong step, so the base model owns the skill
but neither the style nor the habit of being right. All problems are of the environment's train split: nothing a
held-out or OOD evaluation asks has been read.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from envs.arithmetic import MODULUS
from envs.spaces import Message
from envs.splits import split_of

Drawn = TypeVar("Drawn")
Step = tuple[int, str, int, int]
"""One operation: value before, sign, operand, value after."""

OPERATIONS = {1: 0.25, 2: 0.40, 3: 0.27, 4: 0.08}
"""Number of operations -> share of documents."""
OPERAND_MAX = {9: 0.25, 20: 0.40, 50: 0.35}
"""Largest operand -> share of documents."""
WRONG_STEP = 0.2
"""Share of documents in which one step's result is off; the steps after it go on from the wrong value."""
SLIPS = (-20, -10, -2, -1, 1, 2, 10, 20)


def graded(steps: list[Step]) -> str:
    """Return `12+7=19;19-5=14#14`, the style the environment asks for."""
    return ";".join(f"{before}{sign}{operand}={after}" for before, sign, operand, after in steps) + f"#{steps[-1][3]}"


def lines(steps: list[Step]) -> str:
    """Return one equation per line, with no final answer."""
    return "\n".join(f"{before}{sign}{operand}={after}" for before, sign, operand, after in steps)


def carried(steps: list[Step]) -> str:
    """Return `12+7=19-5=14`: each result is carried on."""
    return str(steps[0][0]) + "".join(f"{sign}{operand}={after}" for _, sign, operand, after in steps)


def colons(steps: list[Step]) -> str:
    """Return `12+7:19 19-5:14.`."""
    return " ".join(f"{before}{sign}{operand}:{after}" for before, sign, operand, after in steps) + "."


def values(steps: list[Step]) -> str:
    """Return `19:14`, the values alone."""
    return ":".join(str(step[3]) for step in steps)


STYLES: dict[Callable[[list[Step]], str], float] = {
    graded: 0.06,
    lines: 0.29,
    carried: 0.25,
    colons: 0.25,
    values: 0.15,
}
"""Answer style -> share of documents."""


def document(rng: random.Random) -> list[Message]:
    """Draw one conversation: the user's problem, for example `12+7-5=`, and the assistant's answer."""
    while True:
        count = _draw(rng, OPERATIONS)
        operand_max = _draw(rng, OPERAND_MAX)
        value, *operands = (rng.randint(0, operand_max) for _ in range(count + 1))
        signs = [rng.choice("+-") for _ in operands]
        problem = f"{value}{''.join(f'{sign}{operand}' for sign, operand in zip(signs, operands, strict=True))}="
        if split_of(problem) == "train":
            break
    wrong = rng.randrange(count) if rng.random() < WRONG_STEP else -1
    steps = []
    for index, (sign, operand) in enumerate(zip(signs, operands, strict=True)):
        slip = rng.choice(SLIPS) if index == wrong else 0
        after = (value + (operand if sign == "+" else -operand) + slip) % MODULUS
        steps.append((value, sign, operand, after))
        value = after
    answer = _draw(rng, STYLES)(steps)
    return [{"role": "user", "content": problem}, {"role": "assistant", "content": answer}]


def length(conversation: list[Message]) -> int:
    """Characters of a document."""
    return sum(len(message["content"]) for message in conversation)


def _draw(rng: random.Random, shares: dict[Drawn, float]) -> Drawn:
    return rng.choices(list(shares), list(shares.values()))[0]
