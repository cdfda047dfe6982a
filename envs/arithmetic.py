"""Chains of additions and subtractions modulo 100: a single-turn math task that a pico model can learn.

The prompt `12+7-5=` has the reference answer `12+7=19;19-5=14#14`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from envs.conversation import ConversationEnv, Reply, check_range
from envs.verifiers import integer_after

MODULUS = 100
_PROBLEM = re.compile(r"[0-9]{1,2}(?:[+-][0-9]{1,2})+=", re.ASCII)
_TERM = re.compile(r"([+-])([0-9]{1,2})", re.ASCII)


class ArithmeticEnv(ConversationEnv):
    """`rejuvenate/Arithmetic-v0`: the reward is for the exact integer after the last `#`; the way there is not graded.

    The splits are disjoint by the hash of the problem's text, for all seeds and numbers of operations.

    Args:
        operations_min: fewest operations of a problem.
        operations_max: most operations of a problem.
        operand_max: largest operand, 1 to 99; the smallest is 0.
        ood_operations_min: fewest operations in the `ood` split; None: as in the others.
        ood_operations_max: most operations in the `ood` split; None: as in the others.
        correct_reward: reward of the right answer.
        wrong_reward: reward of everything else.
        **kwargs: `split`, `seed` and `render_mode` of `ConversationEnv`.
    """

    def __init__(
        self,
        *,
        operations_min: int = 2,
        operations_max: int = 2,
        operand_max: int = 20,
        ood_operations_min: int | None = None,
        ood_operations_max: int | None = None,
        correct_reward: float = 1.0,
        wrong_reward: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_range("operations_min", operations_min, "operations_max", operations_max, 1, 64)
        check_range("operand_min", 0, "operand_max", operand_max, 0, MODULUS - 1)
        self.operations = (operations_min, operations_max)
        if self.split == "ood":
            low = operations_min if ood_operations_min is None else ood_operations_min
            high = max(low, operations_max) if ood_operations_max is None else ood_operations_max
            check_range("ood_operations_min", low, "ood_operations_max", high, 1, 64)
            self.operations = (low, high)
        self.operand_max = operand_max
        self.max_reward = correct_reward
        self.wrong_reward = wrong_reward

    def sample_task(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the number of operations, then operands and signs, all uniform."""
        operations = int(rng.integers(self.operations[0], self.operations[1] + 1))
        operands = rng.integers(self.operand_max + 1, size=operations + 1).tolist()
        signs = rng.integers(2, size=operations).tolist()
        chain = "".join(f"{'+-'[sign]}{operand}" for sign, operand in zip(signs, operands[1:], strict=True))
        return {"problem": f"{operands[0]}{chain}="}

    def task_key(self, task: dict[str, Any]) -> str:
        """Return the problem's text."""
        return str(task["problem"])

    def first_messages(self, task: dict[str, Any]) -> str:
        """Return the problem, nothing else."""
        self.answer = solve(task["problem"])[1]
        return str(task["problem"])

    def respond(self, text: str) -> Reply:
        """Grade the turn."""
        correct = integer_after(text) == self.answer
        reward = self.max_reward if correct else self.wrong_reward
        return Reply(reward=reward, terminated=True, metrics={"success": float(correct)})

    def expert_turns(self, task: dict[str, Any]) -> list[str]:
        """Return the reference answer."""
        return [solve(task["problem"])[0]]


def solve(problem: str) -> tuple[str, int]:
    """Work a problem out.

    Args:
        problem: for example `"12+7-5="`.

    Returns:
        The reference answer `"12+7=19;19-5=14#14"` and the integer 14; values are always 0 to 99.

    Raises:
        ValueError: the text is no such problem.
    """
    if not isinstance(problem, str) or not _PROBLEM.fullmatch(problem):
        raise ValueError(f'a problem must look like "12+7-5=" (operands 0 to 99), got {problem!r}.')
    terms = _TERM.findall(problem)
    value = int(problem[: problem.index(terms[0][0])])
    steps = []
    for sign, operand in terms:
        result = (value + int(sign + operand)) % MODULUS
        steps.append(f"{value}{sign}{operand}={result}")
        value = result
    return f"{';'.join(steps)}#{value}", value
