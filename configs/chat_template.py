"""A checkpoint's chat template, where only the template writes special tokens.

Where a message spells one (a web page that says `<|im_end|>`), those characters are tokenized as text, so that what a
tool or a user says can neither end a turn nor begin one. Training, rollouts and calibration all render through this;
it stands here because all of them may import it, and imports nothing itself: it works on the tokenizer it is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]
CALL_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
    "<|python_tag|>",
    "<|python_start|>",
    "<|python_end|>",
)
"""Tokens that tool calls are written with (see `envs.tool_calls`): special ones in some tokenizers. An assistant's own
message may hold them: they are kept in the text of a sampled turn, and are tokens again in a demonstration."""
PROBE = "x1y"
"""The content of probing conversations; any template passes such text through unchanged."""
_OPEN, _CLOSE = (
    "\ufdd0",
    "\ufdd1",
)  # Unicode noncharacters around the number of a spelled special token, while rendering
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
STAND_IN = f"{_OPEN}turn{_CLOSE}"
"""The content of a turn in whose place something else is sampled: no marked message can spell it."""


class ChatTemplate:
    """The chat template of one tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._spelled = [_OPEN, *sorted(special, key=len, reverse=True)]
        self._pattern = re.compile("|".join(map(re.escape, self._spelled)))
        self._backend: Any = None  # of the `tokenizers` library, used directly: it is faster
        if getattr(tokenizer, "is_fast", False):
            self._backend, self._as_text = (_bare_copy(tokenizer.backend_tokenizer) for _ in range(2))
            self._as_text.encode_special_tokens = True

    @property
    def special_token_ids(self) -> set[int]:
        """Ids of all tokens that text cannot spell, and of all added tokens."""
        return set(self._tokenizer.all_special_ids) | set(self._tokenizer.added_tokens_decoder)

    def mark(self, value: Any) -> Any:
        """Return a message, or what is in one, with a mark that templates pass through for each spelled special token.

        Strings inside dicts, lists and tuples are marked too; what spells nothing is equal to what was given. In an
        assistant's message, `CALL_TOKENS` are left as they are.
        """
        own = isinstance(value, dict) and value.get("role") == "assistant"
        return self._mark(value, CALL_TOKENS if own else ())

    def _mark(self, value: Any, left: tuple[str, ...]) -> Any:
        """Mark what is special, apart from the tokens in `left`."""
        if isinstance(value, str):
            return self._pattern.sub(
                lambda found: found[0] if found[0] in left else f"{_OPEN}{self._spelled.index(found[0])}{_CLOSE}", value
            )
        if isinstance(value, dict):
            return {key: self._mark(item, left) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark(item, left) for item in value]
        return value

    def render(self, marked: Sequence[Message], tools: Any = None, *, generation_prompt: bool = False) -> str:
        """Return what the template makes of marked messages.

        Args:
            marked: messages that went through `mark`.
            tools: JSON schemas, or None.
            generation_prompt: whether the opening of an assistant turn follows.
        """
        return self._tokenizer.apply_chat_template(
            list(marked),
            tools=list(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )

    def tokenize(self, text: str) -> list[int]:
        """Tokenize what was rendered: the template's special tokens as such, marked ones as the text they stand for."""
        if _OPEN not in text:
            return self._encode(text, as_text=False)
        token_ids: list[int] = []
        for number, part in enumerate(_MARK.split(text)):  # between the marks, a mark's number, between the marks, ...
            as_text = number % 2 == 1
            token_ids += self._encode(self._spelled[int(part)] if as_text else part, as_text=as_text)
        return token_ids

    def _encode(self, text: str, *, as_text: bool) -> list[int]:
        if self._backend is None:
            return self._tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"]
        return (self._as_text if as_text else self._backend).encode(text, add_special_tokens=False).ids


def _bare_copy(backend: Any) -> Any:
    """A copy of a `tokenizers` tokenizer that neither truncates nor pads, nor puts a space first.

    SentencePiece's space before a text belongs to the beginning of a sequence, which no segment is.
    """
    state = backend.to_str()
    if '"prepend_scheme":"first"' in state:
        parts = json.loads(state)
        outer = parts["pre_tokenizer"] or {}
        for part in (outer, *outer.get("pretokenizers", [])):
            if part.get("prepend_scheme") == "first":
                part["prepend_scheme"] = "never"
        state = json.dumps(parts)
    bare = type(backend).from_str(state)
    bare.no_truncation()
    bare.no_padding()
    bare.encode_special_tokens = False
    return bare
