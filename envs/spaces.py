"""Gymnasium spaces of chat: any text as the action, tuples of messages as the observation.

`gymnasium.spaces.Text` accepts only a listed character set; a language model's turn is any Unicode text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium import Space

Message = dict[str, Any]
"""One chat message: `{"role": ..., "content": ...}`, for a tool's answer also `"name"`."""

ROLES = ("system", "user", "assistant", "tool")

_SAMPLED_CHARACTERS = "abcdefghijklmnopqrstuvwxyz ABCXYZ 0123456789 .,;:+-=#?!'\"{}[]<>/\\\n\téßñ数学日本Ωλ∑🙂"


def as_messages(value: str | Sequence[Message]) -> list[Message]:
    """Return messages from what an author may write: a list of messages, or a string, which is one user message."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else list(value)


def is_message(value: object) -> bool:
    """Whether `value` is a chat message: a dict with a known role, text as content, and string keys."""
    return (
        isinstance(value, dict)
        and value.get("role") in ROLES
        and isinstance(value.get("content"), str)
        and all(isinstance(key, str) for key in value)
    )


class ChatText(Space[str]):
    """Every string, the empty one included.

    Args:
        sample_length: longest sampled text in characters; it bounds `sample`, not `contains`.
        seed: seed of `sample`.
    """

    def __init__(self, sample_length: int = 64, seed: int | None = None) -> None:
        self.sample_length = sample_length
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no array form."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw a text of up to `sample_length` characters of many scripts; masks mean nothing for text."""
        if mask is not None or probability is not None:
            raise ValueError("ChatText.sample takes no mask and no probability: text has no finite list of actions.")
        length = int(self.np_random.integers(self.sample_length + 1))
        picks = self.np_random.integers(len(_SAMPLED_CHARACTERS), size=length)
        return "".join(_SAMPLED_CHARACTERS[i] for i in picks)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string."""
        return isinstance(x, str)

    def __repr__(self) -> str:
        return f"ChatText(sample_length={self.sample_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChatText) and self.sample_length == other.sample_length

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.sample_length))


class Messages(Space[tuple[Message, ...]]):
    """Every tuple of chat messages, the empty one included.

    Args:
        sample_messages: most messages in a sample; it bounds `sample`, not `contains`.
        seed: seed of `sample`.
    """

    def __init__(self, sample_messages: int = 3, seed: int | None = None) -> None:
        self.sample_messages = sample_messages
        self._text = ChatText()
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Messages have no array form."""
        return False

    def seed(self, seed: int | None = None) -> int:
        """Seed the generator of `sample` and of the texts in it."""
        self._text.seed(seed)
        return int(super().seed(seed))

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> tuple[Message, ...]:
        """Draw up to `sample_messages` messages of random roles and texts."""
        if mask is not None or probability is not None:
            raise ValueError("Messages.sample takes no mask and no probability.")
        count = int(self.np_random.integers(self.sample_messages + 1))
        roles = [ROLES[i] for i in self.np_random.integers(len(ROLES), size=count)]
        return tuple({"role": role, "content": self._text.sample()} for role in roles)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a tuple of chat messages."""
        return isinstance(x, tuple) and all(is_message(message) for message in x)

    def __repr__(self) -> str:
        return f"Messages(sample_messages={self.sample_messages})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Messages) and self.sample_messages == other.sample_messages

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.sample_messages))
