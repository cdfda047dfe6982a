"""Questions with a number as the answer, read from a JSONL file in GSM8K's form (arXiv 2110.14168)."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from envs.conversation import KWARGS, ConversationEnv, Reply
from envs.splits import split_of
from envs.verifiers import number_after

INSTRUCTION = "Think step by step, then give the final number on a line of its own after ####."
_CALCULATION = re.compile(r"<<[^<>]*>>")


class QuestionAnswerEnv(ConversationEnv):
    """Single turn; the reward is for the right number after the last `####`.

    It needs a file, so it has no registered id: use `envs.question_answer:QuestionAnswerEnv`.

    Args:
        path: JSONL file, one `{"question": ..., "answer": "... #### 72"}` a line, fields named as below;
            `~` is the home directory.
        question_field: field with the question.
        answer_field: field with a worked answer that ends in `#### number`.
        instruction: text put behind every question.
        split_by_hash: where one file serves all splits, take only the rows that belong to `split` by the hash of their
            question; otherwise every row of the file belongs to the split that is asked for.
        correct_reward: reward of the right number.
        wrong_reward: reward of everything else.
        **kwargs: `split`, `seed` and `render_mode` of `ConversationEnv`.
    """

    def __init__(
        self,
        *,
        path: str,
        question_field: str = "question",
        answer_field: str = "answer",
        instruction: str = INSTRUCTION,
        split_by_hash: bool = False,
        correct_reward: float = 1.0,
        wrong_reward: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        rows = read_rows(path, question_field, answer_field)
        self.rows = [row for row in rows if not split_by_hash or split_of(row[0]) == self.split]
        if not self.rows:
            raise ConfigError(KWARGS + "path", f"must hold rows of split {self.split}", path, "Add rows to the file.")
        self.num_tasks = len(self.rows)
        self.instruction = instruction
        self.max_reward = correct_reward
        self.wrong_reward = wrong_reward

    def task(self, index: int) -> dict[str, Any]:
        """Return row `index` of the file."""
        if not 0 <= index < len(self.rows):
            raise ValueError(f"task index must lie in [0, {len(self.rows)}), got {index}.")
        question, answer = self.rows[index]
        return {"question": question, "answer": answer}

    def first_messages(self, task: dict[str, Any]) -> str:
        """Return the question and the instruction."""
        return f"{task['question']}\n{self.instruction}".strip()

    def respond(self, text: str) -> Reply:
        """Grade the turn."""
        correct = number_after(text) == number_after(self.current_task["answer"])
        return Reply(reward=self.max_reward if correct else self.wrong_reward, terminated=True)

    def expert_turns(self, task: dict[str, Any]) -> list[str]:
        """Return the worked answer, without GSM8K's calculator annotations."""
        return [_CALCULATION.sub("", task["answer"])]


@functools.lru_cache(maxsize=8)
def read_rows(path: str, question_field: str, answer_field: str) -> tuple[tuple[str, str], ...]:
    """Read a file once for all environments of a process.

    Args:
        path: JSONL file; `~` is the home directory of the process that reads.
        question_field: field with the question.
        answer_field: field with the worked answer.

    Returns:
        (question, answer) by line.

    Raises:
        ConfigError: no such file, or a line that is no row.
    """
    file = Path(os.path.expanduser(path))  # Path.expanduser raises where there is no such home directory
    if not file.is_file():
        fix = "Give the path of a JSONL file with one question and answer a line."
        raise ConfigError(KWARGS + "path", "must be a file", path, fix)
    rows: list[tuple[str, str]] = []
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                question, answer = row[question_field], row[answer_field]
            except (ValueError, KeyError, TypeError, IndexError) as error:
                rule = f"must hold {question_field!r} and {answer_field!r} on line {number} ({error})"
                raise ConfigError(KWARGS + "path", rule, path, "Set question_field and answer_field.") from error
            if not isinstance(question, str) or not isinstance(answer, str) or number_after(answer) is None:
                rule = f"must have an answer that ends in `#### number` on line {number}"
                raise ConfigError(KWARGS + "path", rule, path, "Correct or remove that line.")
            rows.append((question, answer))
    return tuple(rows)
