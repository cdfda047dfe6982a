"""Messages to token ids and masks through a checkpoint's own chat template; sampled ids are never tokenized again.

A conversation is a sequence of segments: a prompt, a sampled turn, what the environment added, a sampled turn, ...
Each segment is tokenized by itself, once, in training data as in rollouts, so that both see the same ids. Special
tokens that a message spells are text (see `configs.chat_template`). docs/rendering.md tells what that makes of the
templates of several model families.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.chat_template import CALL_TOKENS, PROBE, STAND_IN, ChatTemplate, Message
from configs.errors import ConfigError
from policies.rendered_conversation import FIELD, RenderedConversation, rest_of
from policies.tool_messages import PROBE_ANSWER, PROBE_TOOLS, answered_turn, with_call_ids

END_OF_MESSAGE = "<|eom_id|>"
"""What Llama 3.1 to 3.3 may end a turn with that calls a tool, in place of the end-of-turn token."""


class Renderer:
    """Renders conversations with one tokenizer.

    The template may rewrite a turn later (Qwen3 drops its thinking): what was sampled stays, and only what the template
    puts after it is taken.

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
        self.opening, self.closing = self._probe_turn()
        """What the template puts between generation prompt and content of the last turn (Qwen3: an empty thinking
        block), and after the content."""
        self.end_of_turn_id: int = self.template.tokenize(self.closing)[0]
        """Id of the token that ends an assistant turn: sampled by the policy, mask 1."""
        self.end_of_turn: str = tokenizer.convert_ids_to_tokens(self.end_of_turn_id)
        special = {token_id: str(t) for token_id, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._ends = {self.end_of_turn_id, *(token_id for token_id, t in special.items() if t == END_OF_MESSAGE)}
        self.stop_token_ids: list[int] = sorted({*self._ends, tokenizer.eos_token_id} - {None})
        """Ids on which the engine stops a turn."""
        self._left_out = {token_id for token_id, token in special.items() if token not in CALL_TOKENS}
        self.calls_needed = self._probe_calls()
        """Whether the template takes tool messages only as answers to a turn with `tool_calls`."""

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

    def ends_turn(self, token_id: int) -> bool:
        """Whether a sampled id ended its turn as the model's format has it, so that the template need not."""
        return token_id in self._ends

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

    def check_tool_messages(self) -> None:
        """Check that the template takes tool messages and shows them.

        Raises:
            ConfigError: it does not; the error holds the template's own.
        """
        probe = answered_turn(with_calls=self.calls_needed)
        shown = self.render(probe, PROBE_TOOLS)
        if PROBE_ANSWER not in shown:
            raise ConfigError(FIELD, "must show the model what a tool answers", shown, "Use a template with tools.")
        self.conversation(probe[:1], PROBE_TOOLS).extend({"role": "assistant", "content": PROBE}, probe[2:3])

    def render(self, marked: Sequence[Message], tools: Any = None, *, generation_prompt: bool = False) -> str:
        """Return what the template makes of marked messages.

        Raises:
            ConfigError: the template refuses them, or fails; the error holds the template's own.
        """
        try:
            return self.template.render(marked, tools, generation_prompt=generation_prompt)
        except Exception as error:  # a template is a program of its author's, and says what it wants in its errors
            roles = ", ".join(str(message.get("role")) for message in marked)
            raise ConfigError(
                FIELD,
                f"must render messages of the roles {roles}; it says {str(error)!r}",
                type(error).__name__,
                "Use a checkpoint whose template takes them, or change chat_template.jinja in its directory.",
            ) from error

    def fitted(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages marked, and in the form in which the template takes calls and their answers."""
        marked = [self.template.mark(message) for message in messages]
        return with_call_ids(marked) if self.calls_needed else marked

    def _probe_turn(self) -> tuple[str, str]:
        """Return the texts that the template puts before (after the generation prompt) and after a turn's content."""
        question, answer = {"role": "user", "content": PROBE}, {"role": "assistant", "content": STAND_IN}
        before = self.render([question], generation_prompt=True)
        after = self.render([question, answer])
        opening, found, closing = rest_of(after, before).partition(STAND_IN)
        if not found:
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
        return opening, closing

    def _probe_calls(self) -> bool:
        """Whether the template refuses an answer to a turn whose calls are in its text, but not one to `tool_calls`."""
        return not self._shows_answer(with_calls=False) and self._shows_answer(with_calls=True)

    def _shows_answer(self, *, with_calls: bool) -> bool:
        """Whether the template takes a tool's answer, and shows it."""
        try:
            return PROBE_ANSWER in self.render(answered_turn(with_calls=with_calls), PROBE_TOOLS)
        except ConfigError:
            return False


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
