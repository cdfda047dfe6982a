"""Questions of a dataset: a number after `####` (GSM8K's form, arXiv 2110.14168), mathematics, or multiple choice."""

from __future__ import annotations

import functools
import logging
import re
import string
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from configs import bounds
from configs.errors import ConfigError
from envs.conversation import KWARGS, ConversationEnv, Reply
from envs.math_answers import final_answer, same_answer
from envs.records import read_records
from envs.splits import split_of
from envs.verifiers import number_after

INSTRUCTIONS: dict[str, str] = {
    "number": "Think step by step, then give the final number on a line of its own after ####.",
    "math": "Think step by step, then give the final answer in \\boxed{}.",
    "choice": "Think step by step, then give the letter of the right option on a line of its own after ####.",
}
"""Form of the answers -> what is put behind every question."""
_log = logging.getLogger(__name__)
_CALCULATION = re.compile(r"<<[^<>]*>>")


class QuestionAnswerEnv(ConversationEnv):
    r"""Single turn; the reward is for the right answer.

    It needs data, so it has no registered id: use `envs.question_answer:QuestionAnswerEnv`.

    Args:
        path: JSONL file, Parquet file (`.parquet`), or `hf:` and the name or folder of a Hugging Face dataset; `~` is
            the home directory.
        form: `number`: the answer column ends in `#### number`. `math`: it is, or holds in `\boxed{}` or after `####`,
            any mathematical answer; graded by value, with math-verify where that is installed. `choice`: it is the
            letter, the number (from 0) or the text of one of the options.
        question_field: column with the question.
        answer_field: column with the answer.
        choices_field: column with the list of options, for the form `choice`; or `{"text": [...], "label": [...]}`,
            then the answer is one of these labels.
        dataset_split: split of a Hugging Face dataset.
        dataset_config: configuration of a Hugging Face dataset that has several.
        instruction: text put behind every question; None: that of the form.
        split_by_hash: where one file serves all splits, take only the rows that belong to `split` by the hash of their
            question; otherwise every row of the file belongs to the split that is asked for.
        correct_reward: reward of the right answer.
        wrong_reward: reward of everything else.
        **kwargs: `split`, `seed` and `render_mode` of `ConversationEnv`.
    """

    def __init__(
        self,
        *,
        path: str,
        form: str = "number",
        question_field: str = "question",
        answer_field: str = "answer",
        choices_field: str = "choices",
        dataset_split: str = "train",
        dataset_config: str | None = None,
        instruction: str | None = None,
        split_by_hash: bool = False,
        correct_reward: float = 1.0,
        wrong_reward: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        bounds.one_of(KWARGS, "form", form, INSTRUCTIONS)
        if form == "math":
            _say_how_it_is_graded()
        if not isinstance(path, str):
            raise ConfigError(KWARGS + "path", "must be a text", path, "Give a file, or hf:OWNER/NAME.")
        fields = (question_field, answer_field) + ((choices_field,) if form == "choice" else ())
        rows = read_rows(path, form, fields, dataset_split, dataset_config)
        self.rows = [row for row in rows if not split_by_hash or split_of(row[0]) == self.split]
        if not self.rows:
            raise ConfigError(KWARGS + "path", f"must hold rows of split {self.split}", path, "Add rows to the file.")
        self.num_tasks = len(self.rows)
        self.form = form
        self.instruction = INSTRUCTIONS[form] if instruction is None else instruction
        self.max_reward = correct_reward
        self.wrong_reward = wrong_reward

    def task(self, index: int) -> dict[str, Any]:
        """Return row `index` of the data."""
        if not 0 <= index < len(self.rows):
            raise ValueError(f"task index must lie in [0, {len(self.rows)}), got {index}.")
        question, answer = self.rows[index]
        return {"question": question, "answer": answer}

    def first_messages(self, task: dict[str, Any]) -> str:
        """Return the question, with its options where it has them, and the instruction."""
        return f"{task['question']}\n{self.instruction}".strip()

    def respond(self, text: str) -> Reply:
        """Grade the turn."""
        expected = self.current_task["answer"]
        if self.form == "number":
            correct = number_after(text) == number_after(expected)
        elif self.form == "math":
            correct = same_answer(final_answer(text), _answer_of(expected))
        else:
            correct = (final_answer(text) or "").strip(" ().").upper() == expected
        reward = self.max_reward if correct else self.wrong_reward
        return Reply(reward=reward, terminated=True, metrics={"success": float(correct)})

    def expert_turns(self, task: dict[str, Any]) -> list[str]:
        """Return the worked answer, without GSM8K's calculator annotations; a bare answer where the task marks it."""
        answer = task["answer"]
        if self.form == "choice":
            return [f"#### {answer}"]
        if self.form == "math" and final_answer(answer) is None:
            return [f"\\boxed{{{answer}}}"]
        return [_CALCULATION.sub("", answer)]


def _answer_of(answer: str) -> str:
    """Return the answer that a row of mathematics gives: the marked one, or the whole text."""
    found = final_answer(answer)
    return answer if found is None else found


@functools.cache
def _say_how_it_is_graded() -> None:
    """Warn, once in a process, where right answers in another form will count as wrong."""
    if find_spec("math_verify") is None:
        _log.warning(
            "math-verify is not installed: answers that are not equal texts or numbers count as wrong. "
            "pip install 'rejuvenate-rl[data]'."
        )


@functools.lru_cache(maxsize=8)
def read_rows(
    path: str, form: str, fields: tuple[str, ...], dataset_split: str, dataset_config: str | None
) -> tuple[tuple[str, str], ...]:
    """Read a dataset once for all environments of a process.

    Args:
        path: as `QuestionAnswerEnv` takes it.
        form: of the answers.
        fields: columns of the question, the answer and, for the form `choice`, the options.
        dataset_split: split of a Hugging Face dataset.
        dataset_config: configuration of a Hugging Face dataset.

    Returns:
        (question, answer) by row; of a multiple choice the question with its options, and the letter.

    Raises:
        ConfigError: no such data, or a row without these columns or with an answer of another form.
    """
    rows: list[tuple[str, str]] = []
    names = " and ".join(repr(name) for name in fields)
    for where, record in read_records(path, dataset_split, dataset_config):
        try:
            values = [record[name] for name in fields]
        except (KeyError, TypeError, IndexError) as error:
            rule = f"must hold {names} on {where} ({error})"
            fix = "Set question_field, answer_field and choices_field."
            raise ConfigError(KWARGS + "path", rule, path, fix) from error
        row = READERS[form](*values) if isinstance(values[0], str) else None
        if row is None:
            rule = f"must have {ANSWERS[form]} on {where}"
            raise ConfigError(KWARGS + "path", rule, path, "Correct or remove it.")
        rows.append(row)
    return tuple(rows)


def _read_number(question: str, answer: Any) -> tuple[str, str] | None:
    """Return a row whose answer ends in `#### number`."""
    return (question, answer) if isinstance(answer, str) and number_after(answer) is not None else None


def _read_math(question: str, answer: Any) -> tuple[str, str] | None:
    """Return a row with any answer; numbers become text."""
    text = str(answer) if isinstance(answer, int | float) and not isinstance(answer, bool) else answer
    return (question, text) if isinstance(text, str) and _answer_of(text).strip() else None


def _read_choice(question: str, answer: Any, choices: Any) -> tuple[str, str] | None:
    """Return a row with the options written under the question, and the right letter."""
    labels = None
    options = choices
    if isinstance(choices, dict):
        options, labels = choices.get("text"), choices.get("label")
    if not isinstance(options, list) or not 2 <= len(options) <= 26:
        return None
    letters = string.ascii_uppercase[: len(options)]
    if labels:
        if answer not in labels[: len(options)]:
            return None
        letter = letters[labels.index(answer)]
    elif isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        letter = letters[answer]
    elif answer in options:
        letter = letters[options.index(answer)]
    elif isinstance(answer, str) and len(answer) == 1 and answer.upper() in letters:
        letter = answer.upper()
    else:
        return None
    listed = "\n".join(f"{name}. {option}" for name, option in zip(letters, options, strict=True))
    return f"{question}\n{listed}", letter


READERS: dict[str, Callable[..., tuple[str, str] | None]] = {
    "number": _read_number,
    "math": _read_math,
    "choice": _read_choice,
}
"""Form -> from a row's columns to (question, answer), None where they are of another form."""

ANSWERS: dict[str, str] = {
    "number": "an answer that ends in `#### number`",
    "math": "an answer",
    "choice": "two to 26 options, and an answer that is the letter, the number (from 0) or the text of one of them,",
}
"""Form -> what a row must have, for an error message."""
