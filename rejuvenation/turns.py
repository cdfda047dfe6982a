"""Assistant turns as token ids, through a checkpoint's own chat template.

Only the template writes special tokens. Where a message spells one, those characters are tokenized as text, as in
training and in rollouts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from configs.errors import ConfigError
from rejuvenation.pairs import TokenPair

PROBE = "x1y"  # the content of the probing conversation; any template passes such text through unchanged
OPEN, CLOSE = "\ufdd0", "\ufdd1"  # Unicode noncharacters around the number of a spelled special token, while rendering
MARK = re.compile(f"{OPEN}([0-9]+){CLOSE}")

Message = dict[str, Any]


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
        special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._spelled = [OPEN, *sorted(special, key=len, reverse=True)]
        self._pattern = re.compile("|".join(map(re.escape, self._spelled)))
        self.end_of_turn_id: int | None = self._probe_end()
        """Id of the token that ends a response; None where the template ends it without one."""

    def pair(self, before: Sequence[Message], turn: Message, tools: Any) -> TokenPair:
        """One assistant turn after the messages before it; nothing after its end-of-turn token.

        Raises:
            ValueError: the template renders the earlier messages differently once the turn follows.
        """
        if self.tokenizer.chat_template:
            prompt = self._render(before, tools, generation_prompt=True)
            whole = self._render([*before, turn], tools)
            if not whole.startswith(prompt):
                raise ValueError("the chat template renders the prompt differently once the answer follows")
            prompt_ids, response_ids = self._tokenize(prompt), self._tokenize(whole[len(prompt) :])
        else:
            prompt_ids = self.tokenizer("".join(message["content"] for message in before))["input_ids"]
            content = self.tokenizer(turn["content"], add_special_tokens=False)["input_ids"]
            response_ids = [*content, self.tokenizer.eos_token_id]
        if self.end_of_turn_id in response_ids:
            response_ids = response_ids[: response_ids.index(self.end_of_turn_id) + 1]
        return TokenPair(prompt_ids, response_ids)

    def _probe_end(self) -> int | None:
        """The first token that the template puts after an assistant's content, if it is special; else the eos."""
        tokenizer = self.tokenizer
        if not tokenizer.chat_template:
            return tokenizer.eos_token_id
        try:
            text = self._render([{"role": role, "content": PROBE} for role in ("user", "assistant")], None)
        except (TemplateError, TypeError):  # a template for other content than text; the data may suit it
            return tokenizer.eos_token_id
        _, found, closing = text.rpartition(PROBE)
        first = self._tokenize(closing)[:1] if found else []
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        return first[0] if special.intersection(first) else tokenizer.eos_token_id

    def _render(self, messages: Sequence[Message], tools: Any, *, generation_prompt: bool = False) -> str:
        marked = [self._marked(message) for message in messages]
        return self.tokenizer.apply_chat_template(
            marked, tools=tools, add_generation_prompt=generation_prompt, tokenize=False
        )

    def _marked(self, value: Any) -> Any:
        """Replace what spells a special token by a mark that the template passes through."""
        if isinstance(value, str):
            return self._pattern.sub(lambda found: f"{OPEN}{self._spelled.index(found[0])}{CLOSE}", value)
        if isinstance(value, dict):
            return {key: self._marked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._marked(item) for item in value]
        return value

    def _tokenize(self, text: str) -> list[int]:
        """Tokenize what the template rendered: its special tokens as such, marked ones as the text they stand for."""
        token_ids: list[int] = []
        for number, part in enumerate(MARK.split(text)):  # between the marks, a mark's number, between the marks, ...
            spelled = number % 2 == 1
            content = self._spelled[int(part)] if spelled else part
            encoded = self.tokenizer(content, add_special_tokens=False, split_special_tokens=spelled)
            token_ids += encoded["input_ids"]
        return token_ids
