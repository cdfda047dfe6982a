"""The text of single tokens, so that a person can read them in their context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

TokenTexts = Callable[[Sequence[int], int], list[str]]
"""(token ids, first) -> the texts of the tokens from index `first` on; those before it are context."""

TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")
LONGEST_CHARACTER = 4
"""Bytes of the longest character in UTF-8: no character needs more tokens."""
CONTEXT = 4 * LONGEST_CHARACTER
LONGEST_TEXT = 32
"""Characters of a token that are kept."""
UNDECODED = "�"


def token_texts(directory: Path) -> TokenTexts:
    """Texts by the tokenizer of a checkpoint directory; the ids as numbers where it has none that can be loaded."""
    if not any(True for pattern in TOKENIZER_FILES for _ in directory.glob(pattern)):
        return ids_as_texts
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    except Exception as error:  # broken files raise anything, and the repair itself needs no tokenizer
        logger.warning("the report shows token ids: the tokenizer in %s cannot be loaded: %s", directory, error)
        return ids_as_texts
    return lambda token_ids, first: decoded(tokenizer, token_ids, first)


def ids_as_texts(token_ids: Sequence[int], first: int) -> list[str]:
    """Every token as its number."""
    return [f" {token}" for token in token_ids[first:]]


def decoded(tokenizer: Any, token_ids: Sequence[int], first: int = 0) -> list[str]:
    """The text that each token adds.

    Where several tokens make one character (pieces of bytes), the last of them gets it and the others get "".

    Args:
        tokenizer: of transformers.
        token_ids: a whole sequence, or a part of it.
        first: index of the first token wanted. The tokens before it are decoded as far as the first may need them.

    Returns:
        One text per token from `first` on, at most `LONGEST_TEXT` characters each.
    """

    def text(start: int, stop: int) -> str:
        return tokenizer.decode(token_ids[start:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    start = max(0, first - CONTEXT)
    texts: list[str] = []
    done = given = start  # texts up to `done` are given; decoding from `given` on shows what a token adds to it
    for stop in range(start + 1, len(token_ids) + 1):
        before, after = text(given, done), text(given, stop)
        whole = not after.endswith(UNDECODED) or stop - done >= LONGEST_CHARACTER
        texts.append(shortened(after[len(before) :]) if whole else "")
        if whole:
            given, done = done, stop
    return texts[first - start :]


def shortened(text: str) -> str:
    """At most `LONGEST_TEXT` characters of a text."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
