"""The toy's hand-made tokenizer: 64 tokens, one per character, shared by the math and the tool-use checkpoints.

A Hermes tool call is about 60 characters. Its two constant strings are single tokens here, so that a call costs the
1.4 MB model three tokens; text and token ids still map onto each other exactly.
"""

from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

PAD, UNKNOWN, END_OF_TURN = "<pad>", "<unk>", "<|im_end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
SPECIAL_TOKENS = (PAD, UNKNOWN, END_OF_TURN, *ROLES)
TOOL_CALL_TOKENS = ('<tool_call>\n{"name": "lookup", "arguments": {"key": "', '"}}\n</tool_call>')
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+-=;#:? \n.,\"'{}_()/"

# Every message is its role token and its content; only an assistant turn is closed, by the end-of-turn token. Content
# is rendered verbatim and each message on its own, so a conversation's text is a prefix of any continuation's text.
# The `tools` variable is ignored on purpose: a model of this size learns the one tool from examples, and its schema
# would be ten times as long as an episode.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + (message['content'] or '') -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|im_end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer; ids are special tokens, then tool-call strings, then characters, in the order above.

    It is Qwen2's byte-level tokenizer with no merges and 64 entries: transformers picks the class of a Qwen2
    checkpoint by its model type, so a class of another kind would be replaced at loading.

    Returns:
        A fast tokenizer for which `decode(encode(text))` is `text` over its characters. Any other character, upper-case
        letters among them, has no token and is left out.
    """
    byte_level = {" ": "\u0120", "\n": "\u010a"}  # how byte-level BPE writes space and newline; other ASCII as it is
    entries = (*SPECIAL_TOKENS, *TOOL_CALL_TOKENS, *(byte_level.get(character, character) for character in CHARACTERS))
    assert len(set(entries)) == len(entries) <= 64
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(entries)},
        merges=[],
        pad_token=AddedToken(PAD, special=True, normalized=False),
        unk_token=AddedToken(UNKNOWN, special=True, normalized=False),
        eos_token=AddedToken(END_OF_TURN, special=True, normalized=False),
        additional_special_tokens=[AddedToken(role, special=True, normalized=False) for role in ROLES],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TOOL_CALL_TOKENS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into a checkpoint directory."""
    build_tokenizer().save_pretrained(str(directory))
