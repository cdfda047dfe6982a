"""Calibration pairs: prompts and responses as token ids, from callers or from a JSONL file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from configs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A prompt and the response that is scored; both need at least one token.

    A conversation of several turns gives one pair per assistant turn: all tokens before it, then the turn with its
    end-of-turn token.
    """

    prompt_ids: list[int]
    response_ids: list[int]

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.response_ids:
            raise ValueError("a calibration pair needs at least one prompt token and one response token")

    @property
    def token_ids(self) -> list[int]:
        """Prompt, then response."""
        return [*self.prompt_ids, *self.response_ids]

    @property
    def positions(self) -> range:
        """Positions whose hidden states predict the response tokens."""
        first = len(self.prompt_ids) - 1
        return range(first, first + len(self.response_ids))


def draw(pairs: Sequence[TokenPair], count: int, seed: int) -> list[TokenPair]:
    """At most `count` pairs, drawn by a hash of seed and tokens: the same pairs whatever their order.

    A larger count gives a superset. The result is in hash order.
    """

    def key(pair: TokenPair) -> tuple[int, str]:
        content = f"{pair.prompt_ids}{pair.response_ids}"
        return xxhash.xxh3_64_intdigest(content.encode(), seed=seed), content

    return sorted(pairs, key=key)[:count]


def load_pairs(path: str | Path, tokenizer_dir: str | Path) -> list[TokenPair]:
    """Read a JSONL file of `{"messages": [...]}` or `{"prompt": ..., "response": ...}` lines.

    Text becomes tokens by the chat template in `tokenizer_dir`; without one, prompt and response are joined as they
    are and the end-of-sequence token is added. Every assistant turn is one pair and ends with its end-of-turn token.

    Raises:
        ConfigError: the file does not exist, or holds no pair; or nothing says what ends a response.
        ValueError: a line is malformed; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("calibration", "must be an existing JSONL file", str(path), "Check the path.")
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    from rejuvenation.turns import Turns

    turns = Turns(AutoTokenizer.from_pretrained(str(tokenizer_dir)), str(tokenizer_dir))
    pairs: list[TokenPair] = []
    with path.open("rb") as file:  # lines end with \n alone: a string may hold what Unicode calls a line separator
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = one_object(line)
                    conversation = _messages(row)
                    pairs += [
                        turns.pair(conversation[:turn], conversation[turn], row.get("tools"))
                        for turn, message in enumerate(conversation)
                        if message["role"] == "assistant" and turn > 0
                    ]
                except (ValueError, KeyError, TypeError, TemplateError) as error:
                    raise ValueError(f"{path}, line {number}: {error}") from error
    if not pairs:
        raise ConfigError("calibration", "must hold at least one assistant turn", str(path), "Add lines to it.")
    return pairs


def one_object(line: bytes) -> Any:
    """What a line of a JSONL file holds.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(line)
    except ValueError:
        text = line.decode(errors="replace").strip()
        raise ValueError(f"must be one JSON object, got {text[:60] + '...' * (len(text) > 60)!r}") from None


def _messages(row: Any) -> list[dict[str, Any]]:
    if isinstance(row, dict) and isinstance(row.get("messages"), list):
        return row["messages"]
    if isinstance(row, dict) and isinstance(row.get("prompt"), str) and isinstance(row.get("response"), str):
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
    raise ValueError('expected {"messages": [...]} or {"prompt": "...", "response": "..."}')
