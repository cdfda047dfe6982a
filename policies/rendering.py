"""Messages to token ids and masks through a checkpoint's own chat template; sampled ids are never tokenized again.

A conversation is a sequence of segments: a prompt, a sampled turn, what the environment added, a sampled turn, ...
Each segment is tokenized by itself, once, in training data as in rollouts, so that both see the same ids.

Only the template writes special tokens. Where a message spells one (a web page that says `<|im_end|>`), those
characters are tokenized as text, so that what a tool or a user says can neither end a turn nor begin one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError

Message = dict[str, Any]
FIELD = "the tokenizer's chat template"
PROBE = "x1y"  # the content of the probing conversation; any template passes such text through unchanged
OPEN, CLOSE = "\ufdd0", "\ufdd1"  # Unicode noncharacters around the number of a spelled special token, while rendering
MARK = re.compile(f"{OPEN}([0-9]+){CLOSE}")


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
        # Used directly: no settings of the tokenizer around it (truncation, padding) can reach a segment.
        self._backend = tokenizer.backend_tokenizer
        self._as_text = type(self._backend).from_str(self._backend.to_str())
        self._as_text.encode_special_tokens = True
        special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._spelled = [OPEN, *sorted(special, key=len, reverse=True)]
        self._pattern = re.compile("|".join(map(re.escape, self._spelled)))
        self._closing = self._probe_closing()
        self.end_of_turn_id: int = self._tokenize(self._closing)[0]
        """Id of the token that ends an assistant turn: sampled by the policy, mask 1."""
        self.stop_token_ids: list[int] = sorted({self.end_of_turn_id, tokenizer.eos_token_id} - {None})
        """Ids on which the engine stops a turn."""

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """Return the ids of `messages` and the generation prompt: what the first turn is sampled from."""
        return self._tokenize(self._render(messages, tools, generation_prompt=True))

    def extension(
        self,
        messages_so_far: Sequence[Message],
        new_messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        end_of_turn_sampled: bool = True,
    ) -> list[int]:
        """Return the ids that follow a sampled turn: the template's closing text, `new_messages`, the next prompt.

        Args:
            messages_so_far: the conversation up to and including the sampled turn's message.
            new_messages: what the environment added.
            tools: JSON schemas, the same as in `prompt`.
            end_of_turn_sampled: whether the sampled ids ended with an end-of-turn token, which is then not added again.

        Raises:
            ConfigError: the template is not prefix-stable on this conversation.
        """
        assert [message["role"] for message in messages_so_far[-1:]] == ["assistant"], "an extension follows a turn"
        before = self._render(messages_so_far, tools)
        after = self._render([*messages_so_far, *new_messages], tools, generation_prompt=True)
        token_ids = self._tokenize(self._closing + self._rest(after, before))
        return token_ids[1:] if end_of_turn_sampled else token_ids

    def parse(self, token_ids: Sequence[int]) -> str:
        """Return the text of a sampled turn without its end-of-turn token and other special tokens."""
        return self._backend.decode(list(token_ids), skip_special_tokens=True)

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
        token_ids = self.prompt(messages[: turns[0]], tools)
        loss_mask = [0] * len(token_ids)
        for turn, next_turn in zip(turns, [*turns[1:], None], strict=True):
            sampled = [*self._tokenize(self._turn_text(messages[: turn + 1], tools)), self.end_of_turn_id]
            added: list[int] = []
            if next_turn is not None:
                added = self.extension(messages[: turn + 1], messages[turn + 1 : next_turn], tools)
            token_ids += sampled + added
            loss_mask += [1] * len(sampled) + [0] * len(added)
        return token_ids, loss_mask

    def _turn_text(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> str:
        """Return what the policy would have had to sample for the last message, without the end of turn."""
        before = self._render(messages[:-1], tools, generation_prompt=True)
        return self._rest(self._render(messages, tools), before).removesuffix(self._closing)

    def _probe_closing(self) -> str:
        """Return the text that the template puts after an assistant's content."""
        question, answer = {"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}
        before = self._render([question], None, generation_prompt=True)
        after = self._render([question, answer], None)
        content, found, closing = self._rest(after, before).partition(PROBE)
        if content or not found:
            raise ConfigError(
                FIELD,
                "must render an assistant message as the generation prompt and its content",
                after,
                "Check what add_generation_prompt adds.",
            )
        first = self._tokenize(closing)[:1]
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        if not first or first[0] not in special:
            raise ConfigError(
                FIELD,
                "must end an assistant message with a special token",
                after,
                "Let the template add the tokenizer's eos token after an assistant's content.",
            )
        return closing

    def _rest(self, text: str, before: str) -> str:
        if not text.startswith(before):
            raise ConfigError(
                FIELD,
                "must be prefix-stable (messages added later leave the earlier text as it was)",
                f"{text!r} after {before!r}",
                "Use a template that does not rewrite earlier messages.",
            )
        return text[len(before) :]

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        *,
        generation_prompt: bool = False,
    ) -> str:
        return self.tokenizer.apply_chat_template(
            [self._marked(message) for message in messages],
            tools=list(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )

    def _marked(self, value: Any) -> Any:
        """Replace what spells a special token by a mark that the template passes through."""
        if isinstance(value, str):
            return self._pattern.sub(lambda found: f"{OPEN}{self._spelled.index(found[0])}{CLOSE}", value)
        if isinstance(value, dict):
            return {key: self._marked(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(item) for item in value]
        return value

    def _tokenize(self, text: str) -> list[int]:
        """Tokenize what the template rendered: its special tokens as such, marked ones as the text they stand for."""
        if OPEN not in text:
            return self._backend.encode(text, add_special_tokens=False).ids
        token_ids: list[int] = []
        for number, part in enumerate(MARK.split(text)):  # between the marks, a mark's number, between the marks, ...
            spelled = number % 2 == 1
            encoded = (self._as_text if spelled else self._backend).encode(
                self._spelled[int(part)] if spelled else part, add_special_tokens=False
            )
            token_ids += encoded.ids
        return token_ids


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
