"""A tokenizer of single bytes with a plain chat template, for what needs any model's view of a conversation."""

from __future__ import annotations

from typing import Any

CHAT_TEMPLATE = (
    "{%- if tools -%}{{ '<|im_start|>tools\n' }}"
    "{%- for tool in tools -%}{{ (tool | tojson) + '\n' }}{%- endfor -%}{{ '<|im_end|>\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""ChatML; tools are one JSON schema a line, in a block of their own before the messages."""


def byte_tokenizer() -> Any:
    """Return a Hugging Face tokenizer that can write every text, one token a byte, with `CHAT_TEMPLATE`."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate([*special, *sorted(ByteLevel.alphabet())])},
        merges=[],
        unk_token=special[0],
        pad_token=special[0],
        eos_token=special[2],
        additional_special_tokens=special[1:],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
