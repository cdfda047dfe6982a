"""Messages to token ids and masks through a checkpoint's own chat template; sampled ids are never tokenized again.

A conversation is a sequence of segments: a prompt, a sampled turn, what the environment added, a sampled turn, ...
Each segment is tokenized by itself, once, in training data as in rollouts, so that both see the same ids. Special
tokens that a message spells are text (see `configs.chat_template`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.chat_template import CALL_TOKENS, PROBE, ChatTemplate, Message
from configs.errors import ConfigError

FIELD = "the tokenizer's chat template"


class Renderer:
    """Renders conversations with one tokenizer.

    The template must be prefix-stable: adding messages leaves the text of the earlier ones as it was.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.

    Raises:
        ConfigError: there is no chat template, or turns cannot be told apart in what it renders, or the tokenizer is
            not one of the `tokenizers` library.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise ConfigError(FIELD, "must be set", None, "Add chat_template.jinja to the checkpoint directory.")
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                "the tokenizer",
                "must be one of the tokenizers library",
                type(tokenizer).__name__,
                "Add tokenizer.json to the checkpoint directory.",
            )
        self.template = ChatTemplate(tokenizer)
        self.closing = self._probe_closing()
        """What the template puts after an assistant's content."""
        self.end_of_turn_id: int = self.template.tokenize(self.closing)[0]
        """Id of the token that ends an assistant turn: sampled by the policy, mask 1."""
        self.stop_token_ids: list[int] = sorted({self.end_of_turn_id, tokenizer.eos_token_id} - {None})
        """Ids on which the engine stops a turn."""
        special = {token_id: str(t) for token_id, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._left_out = {token_id for token_id, token in special.items() if token not in CALL_TOKENS}

    @property
    def tool_template(self) -> str:
        """Text of the chat template that conversations with tools are rendered with."""
        return self.tokenizer.get_chat_template(tools=[{}])

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """Return the ids of `messages` and the generation prompt: what the first turn is sampled from."""
        return self.conversation(messages, tools).prompt_token_ids

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None
    ) -> RenderedConversation:
        """Return a conversation that opens with `messages` and waits for its first turn."""
        return RenderedConversation(self, messages, tools)

    def parse(self, token_ids: Sequence[int]) -> str:
        """Return the text of a sampled turn without its end-of-turn token and other special tokens.

        Those that tool calls are written with stay (`configs.chat_template.CALL_TOKENS`).
        """
        kept = [token_id for token_id in token_ids if token_id not in self._left_out]
        return self.tokenizer.backend_tokenizer.decode(kept, skip_special_tokens=False)

    def training_example(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None
    ) -> tuple[list[int], list[int]]:
        """Return ids and loss mask of a whole conversation: mask 1 on assistant turns and their end-of-turn tokens.

        The ids are those that a rollout with the same turns would have; they end with the last end-of-turn token.

        Args:
            messages: a conversation that ends with an assistant turn.
            tools: JSON schemas.

        Returns:
            token_ids, loss_mask: both [T].
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError("a training example must end with an assistant message")
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        conversation = self.conversation(messages[: turns[0]], tools)
        token_ids = list(conversation.prompt_token_ids)
        loss_mask = [0] * len(token_ids)
        for turn, next_turn in zip(turns, [*turns[1:], None], strict=True):
            sampled = [*self.template.tokenize(conversation.turn_text(messages[turn])), self.end_of_turn_id]
            added: list[int] = []
            if next_turn is not None:
                added = conversation.extend(messages[turn], messages[turn + 1 : next_turn])
            token_ids += sampled + added
            loss_mask += [1] * len(sampled) + [0] * len(added)
        return token_ids, loss_mask

    def _probe_closing(self) -> str:
        """Return the text that the template puts after an assistant's content."""
        question, answer = {"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}
        before = self.template.render([question], generation_prompt=True)
        after = self.template.render([question, answer])
        content, found, closing = rest_of(after, before).partition(PROBE)
        if content or not found:
            raise ConfigError(
                FIELD,
                "must render an assistant message as the generation prompt and its content",
                after,
                "Check what add_generation_prompt adds.",
            )
        first = self.template.tokenize(closing)[:1]
        if not self.template.special_token_ids.intersection(first):
            raise ConfigError(
                FIELD,
                "must end an assistant message with a special token",
                after,
                "Let the template add the tokenizer's eos token after an assistant's content.",
            )
        return closing


class RenderedConversation:
    """A conversation that grows, and the text that the template has made of it so far.

    Args:
        renderer: whose template and tokenizer.
        messages: what the conversation opens with.
        tools: JSON schemas, or None.
    """

    def __init__(
        self, renderer: Renderer, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None
    ) -> None:
        self._renderer = renderer
        self._tools = tools
        self._marked = [renderer.template.mark(message) for message in messages]
        self._text = renderer.template.render(self._marked, tools, generation_prompt=True)
        self.prompt_token_ids = renderer.template.tokenize(self._text)
        """Ids of the opening messages and the generation prompt: what the first turn is sampled from."""

    def copy(self) -> RenderedConversation:
        """Return a conversation that starts from here and grows by itself."""
        other = copy.copy(self)
        other._marked = list(self._marked)
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
            ConfigError: the template is not prefix-stable on this conversation.
        """
        assert turn["role"] == "assistant", "an extension follows a turn"
        template, closing = self._renderer.template, self._renderer.closing
        self._marked.append(template.mark(turn))
        before = f"{self._text}{self._marked[-1].get('content')}{closing}"
        whole = [*self._marked, *map(template.mark, new_messages)]
        after = template.render(whole, self._tools, generation_prompt=True)
        if not after.startswith(before):  # the template does not write this turn as it was sampled (it trims it, say)
            before = template.render(self._marked, self._tools)
        added = rest_of(after, before)
        self._marked, self._text = whole, after
        token_ids = template.tokenize(closing + added)
        return token_ids[1:] if end_of_turn_sampled else token_ids

    def turn_text(self, turn: Message) -> str:
        """Return what would have to be sampled for `turn` to come next, marked, without the end of turn."""
        template = self._renderer.template
        whole = template.render([*self._marked, template.mark(turn)], self._tools)
        return rest_of(whole, self._text).removesuffix(self._renderer.closing)


def rest_of(text: str, before: str) -> str:
    """Return what follows `before` in `text`.

    Raises:
        ConfigError: `text` begins otherwise.
    """
    if not text.startswith(before):
        raise ConfigError(
            FIELD,
            "must be prefix-stable (messages added later leave the earlier text as it was)",
            f"{text!r} after {before!r}",
            "Use a template that does not rewrite earlier messages.",
        )
    return text[len(before) :]


def load_renderer(model_dir: str | Path) -> Renderer:
    """Return a renderer with the tokenizer of a checkpoint directory.

    Raises:
        ConfigError: what AutoTokenizer makes of the directory tokenizes otherwise than its `tokenizer.json`, as happens
            to hand-made tokenizers beside a config whose model type has a tokenizer class of its own.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model_dir))
    file = Path(model_dir) / "tokenizer.json"
    if file.is_file():
        sample = "".join(chr(code) for code in range(32, 127)) + "\nAdd 12 and 7.\n\nIt is 19."
        written = Tokenizer.from_file(str(file)).encode(sample, add_special_tokens=False).ids
        if written != tokenizer.encode(sample, add_special_tokens=False):
            raise ConfigError(
                str(file),
                f"must mean to {type(tokenizer).__name__} (chosen by AutoTokenizer) what it means by itself",
                "other token ids for the same text",
                f"Save the tokenizer as a {type(tokenizer).__name__}.",
            )
    return Renderer(tokenizer)
