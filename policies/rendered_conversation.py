"""A conversation that grows, and the token ids that the chat template adds to it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.chat_template import PROBE, STAND_IN, Message
from configs.errors import ConfigError
from policies.tool_messages import stand_in

if TYPE_CHECKING:
    from policies.rendering import Renderer

FIELD = "the tokenizer's chat template"


class RenderedConversation:
    """A conversation, one segment after the other.

    While the template renders what follows a turn, something short stands in the turn's place: the ids before it are
    settled, whatever the template would now make of them. What follows then does not depend on what was sampled, and
    copies (the siblings of a group) that get the same answers have it rendered once.

    Args:
        renderer: whose template and tokenizer.
        messages: what the conversation opens with.
        tools: JSON schemas, or None.

    Raises:
        ConfigError: the template refuses the messages.
    """

    def __init__(
        self, renderer: Renderer, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None
    ) -> None:
        self._renderer = renderer
        self._tools = tools
        self._messages = renderer.fitted(messages)
        text = renderer.render(self._messages, tools, generation_prompt=True)
        self.prompt_token_ids = renderer.template.tokenize(text)
        """Ids of the opening messages and the generation prompt: what the first turn is sampled from."""
        self._answers = b""  # digest of all that the environment added since
        self._following: dict[bytes, list[int]] = {}  # ids by that digest; copies share it

    def copy(self) -> RenderedConversation:
        """Return a conversation that starts from here and grows by itself."""
        other = copy.copy(self)
        other._messages = list(self._messages)
        return other

    def extend(self, turn: Message, new_messages: Sequence[Message], *, end_of_turn_sampled: bool = True) -> list[int]:
        """Add a sampled turn and what the environment answered to it.

        Args:
            turn: the assistant's message.
            new_messages: what the environment added.
            end_of_turn_sampled: whether the sampled ids ended with an end-of-turn token, which is then not added again.

        Returns:
            The ids that follow the sampled ones: the template's closing text, `new_messages`, the next prompt.

        Raises:
            ConfigError: the template refuses the messages, or does not end the turn as it does when nothing follows.
        """
        assert turn["role"] == "assistant", "an extension follows a turn"
        renderer = self._renderer
        added = renderer.fitted(new_messages)
        answers = hashlib.blake2b(self._answers + repr(added).encode(), digest_size=16).digest()
        token_ids = self._following.get(answers)
        if token_ids is None:
            token_ids = self._following[answers] = renderer.template.tokenize(self._following_text(added))
        self._answers = answers
        self._messages += [stand_in(added, with_calls=renderer.calls_needed, name=PROBE), *added]
        return token_ids[1:] if end_of_turn_sampled else list(token_ids)

    def _following_text(self, added: Sequence[Message]) -> str:
        """Return what the template puts after a turn to which the environment answers `added`, end of turn included."""
        renderer = self._renderer
        place = stand_in(added, with_calls=renderer.calls_needed)
        text = renderer.render([*self._messages, place, *added], self._tools, generation_prompt=True)
        following = text.partition(STAND_IN)[2]
        if place.get("tool_calls"):  # the rest of the call
            following = following[max(0, following.find(renderer.end_of_turn)) :]
        if STAND_IN not in text or not following.startswith(renderer.end_of_turn):
            raise ConfigError(
                FIELD,
                f"must end a turn with {renderer.end_of_turn!r} whatever follows it",
                text,
                "Use a template that keeps an assistant's content.",
            )
        return following

    def turn_text(self, turn: Message) -> str:
        """Return what would have to be sampled for `turn` to come next, marked, without the end of turn.

        It is what the template writes where `turn` is the last message.
        """
        renderer = self._renderer
        whole = renderer.render([*self._messages, *renderer.fitted([turn])], self._tools)
        place = renderer.render([*self._messages, stand_in([], with_calls=False)], self._tools)
        before = place.partition(STAND_IN)[0].removesuffix(renderer.opening)
        return rest_of(whole, before).removesuffix(renderer.closing)


def rest_of(text: str, before: str) -> str:
    """Return what follows `before` in `text`.

    Raises:
        ConfigError: `text` begins otherwise.
    """
    if not text.startswith(before):
        raise ConfigError(
            FIELD,
            "must be prefix-stable here (a turn that follows leaves the earlier text as it was)",
            f"{text!r} after {before!r}",
            "Use a template that does not rewrite earlier messages.",
        )
    return text[len(before) :]
