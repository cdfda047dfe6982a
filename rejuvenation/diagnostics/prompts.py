"""Prompts that a checkpoint is sampled on, with the final answer where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.chat_template import PROBE
from configs.errors import ConfigError
from rejuvenation.diagnostics.grading import final_answer, normalised
from rejuvenation.pairs import TokenPair, one_object

MARKERS = ("####", "\\boxed{", "#")
"""What a reference that is more than its answer alone marks the answer with."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as token ids, and the answer to it."""

    token_ids: list[int]
    answer: str | None
    """Normalised; null where it is not known."""


def load_prompts(path: str | Path, tokenizer_dir: str | Path, marker: str | None = None) -> list[Prompt]:
    """Read a JSONL file of prompts, rendered through the chat template in `tokenizer_dir`.

    Every line holds `prompt` or `question` (text) or `messages`, and may hold `answer`: the answer alone, or a solution
    that marks it as `final_answer` reads it (GSM8K's `####`). Messages that end with an assistant's turn ask for that
    turn, whose final answer counts where the line has no `answer`.

    Args:
        path: the file.
        tokenizer_dir: a checkpoint directory.
        marker: what precedes the answer in an assistant's turn; see `final_answer`.

    Raises:
        ConfigError: the file does not exist or holds no prompt.
        ValueError: a line is malformed; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("--prompts", "must be an existing JSONL file", str(path), "Check the path.")
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    from rejuvenation.turns import Turns

    turns = Turns(AutoTokenizer.from_pretrained(str(tokenizer_dir)), str(tokenizer_dir))
    prompts = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = one_object(line)
                    messages, answer = _read(row, marker)
                    tools = row.get("tools")
                    pair = turns.pair(messages, {"role": "assistant", "content": PROBE}, tools)
                    prompts.append(Prompt(pair.prompt_ids, answer))
                except (ValueError, KeyError, TypeError, TemplateError) as error:
                    raise ValueError(f"{path}, line {number}: {error}") from error
    if not prompts:
        raise ConfigError("--prompts", "must hold at least one prompt", str(path), "Add lines to it.")
    return prompts


def prompts_of(pairs: Sequence[TokenPair], tokenizer_dir: str | Path, marker: str | None = None) -> list[Prompt]:
    """The prompts of calibration pairs with the final answers of their responses."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_dir))
    texts = (tokenizer.decode(pair.response_ids, skip_special_tokens=True) for pair in pairs)
    return [Prompt(pair.prompt_ids, final_answer(text, marker)) for pair, text in zip(pairs, texts, strict=True)]


def _read(row: Any, marker: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """Messages and answer of one line."""
    given = row.get("answer") if isinstance(row, dict) else None
    answer = reference_answer(str(given)) if given is not None else None
    if isinstance(row, dict) and isinstance(row.get("messages"), list) and row["messages"]:
        *before, last = row["messages"]
        if last["role"] != "assistant":
            return row["messages"], answer
        return before, answer if given is not None else final_answer(last["content"] or "", marker)
    for name in ("prompt", "question"):
        if isinstance(row, dict) and isinstance(row.get(name), str):
            return [{"role": "user", "content": row[name]}], answer
    raise ValueError('expected {"prompt": "...", "answer": "..."}, {"question", "answer"} or {"messages": [...]}')


def reference_answer(text: str) -> str | None:
    """The answer that a reference gives: what it marks, or all of it; None where that is empty."""
    return final_answer(text) if any(marker in text for marker in MARKERS) else normalised(text) or None
