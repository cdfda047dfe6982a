"""Assistant turns as token ids, through a checkpoint's own chat template, as in training and in rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from configs.chat_template import PROBE, STAND_IN, ChatTemplate, Message
from configs.errors import ConfigError
from rejuvenation.pairs import TokenPair


class Turns:
    """Makes pairs of one tokenizer's ids.

    Args:
        tokenizer: a tokenizer of transformers.
        source: where it comes from; errors name it.

    Raises:
        ConfigError: nothing says what ends a response: there is neither a chat template nor an end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template and tokenizer.eos_token_id is None:
            rule = "must have a chat template or an end-of-sequence token, so that a response has an end"
            fix = "Add chat_template.jinja to the directory, or set eos_token in its tokenizer_config.json."
            raise ConfigError("the tokenizer", rule, source, fix)
        self.template = ChatTemplate(tokenizer)
        self.end_of_turn_id: int | None = self._probe_end()
        """Id of the token that ends a response; None where the template ends it without one."""

    def pair(self, before: Sequence[Message], turn: Message, tools: Any) -> TokenPair:
        """One assistant turn after the messages before it; nothing after its end-of-turn token.

        The prompt is what the template makes of the messages before the turn comes, even where it renders them
        differently afterwards (Mistral's leaves out the system prompt).

        Raises:
            ValueError: the template writes other text before the turn than the prompt ends with.
        """
        if self.tokenizer.chat_template:
            marked = [self.template.mark(message) for message in (*before, turn)]
            prompt = self.template.render(marked[:-1], tools, generation_prompt=True)
            response = self._response(prompt, marked, tools)
            prompt_ids, response_ids = map(self.template.tokenize, (prompt, response))
        else:
            prompt_ids = self.tokenizer("".join(message["content"] for message in before))["input_ids"]
            content = self.tokenizer(turn["content"], add_special_tokens=False)["input_ids"]
            response_ids = [*content, self.tokenizer.eos_token_id]
        if self.end_of_turn_id in response_ids:
            response_ids = response_ids[: response_ids.index(self.end_of_turn_id) + 1]
        return TokenPair(prompt_ids, response_ids)

    def _response(self, prompt: str, marked: list[Message], tools: Any) -> str:
        """Return what the template writes after `prompt` for the last of `marked`."""
        whole = self.template.render(marked, tools)
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        question, stand_in = {"role": "user", "content": PROBE}, {"role": "assistant", "content": STAND_IN}
        plain = self.template.render([question], generation_prompt=True)
        before = self.template.render([*marked[:-1], stand_in], tools).partition(STAND_IN)[0]
        if not self.template.render([question, stand_in]).startswith(plain + STAND_IN) or not whole.startswith(before):
            raise ValueError("the chat template renders the prompt differently once the answer follows")
        return whole[len(before) :]

    def _probe_end(self) -> int | None:
        """The first token that the template puts after an assistant's content, if it is special; else the eos."""
        tokenizer = self.tokenizer
        if not tokenizer.chat_template:
            return tokenizer.eos_token_id
        try:
            text = self.template.render([{"role": role, "content": PROBE} for role in ("user", "assistant")])
        except (TemplateError, TypeError):  # a template for other content than text; the data may suit it
            return tokenizer.eos_token_id
        _, found, closing = text.rpartition(PROBE)
        first = self.template.tokenize(closing)[:1] if found else []
        return first[0] if self.template.special_token_ids.intersection(first) else tokenizer.eos_token_id
