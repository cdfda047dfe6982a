"""Model families: their chat templates as published, and a tokenizer of single bytes with their special tokens."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast

DATA = Path(__file__).parent / "data" / "chat_templates"


@dataclass(frozen=True)
class Family:
    """What a family's tokenizer has that its template, or its models' turns, write."""

    end_of_turn: str
    special: tuple[str, ...]
    bos: str | None = None
    plain: tuple[str, ...] = ()
    """Added tokens that are not special."""
    trl: str | None = None
    """Name of the template in the package trl; None: it lies in `DATA`."""
    thinks: bool = False
    tool_parser: str = "hermes"


_QWEN = Family(
    "<|im_end|>",
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    plain=("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
_LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>")
_MISTRAL = (
    *("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)

FAMILIES = {
    "qwen2.5": _QWEN,
    "qwen3": Family(_QWEN.end_of_turn, _QWEN.special, plain=_QWEN.plain, thinks=True),
    "qwen3-instruct-2507": _QWEN,
    "qwen3-coder": Family(_QWEN.end_of_turn, _QWEN.special, plain=_QWEN.plain, tool_parser="qwen3_coder"),
    "llama3.1": Family("<|eot_id|>", _LLAMA, bos=_LLAMA[0], trl="llama3_1", tool_parser="llama3"),
    "llama3.2": Family("<|eot_id|>", _LLAMA, bos=_LLAMA[0], trl="llama3_2", tool_parser="llama3"),
    "mistral-nemo": Family("</s>", _MISTRAL, bos="<s>", tool_parser="mistral"),
}


def template_text(name: str) -> str:
    """Return a family's chat template."""
    published = FAMILIES[name].trl
    if published is None:
        return (DATA / f"{name}.jinja").read_text()
    package = importlib.util.find_spec("trl")  # which is not imported: only its data are read
    assert package is not None, "make setup installs trl"
    return (Path((package.submodule_search_locations or [])[0]) / "chat_templates" / f"{published}.jinja").read_text()


def family_tokenizer(
    name: str, template: str | None = None, merges: tuple[tuple[str, str], ...] = ()
) -> PreTrainedTokenizerFast:
    """Return a tokenizer that can write every text, one token a byte, with a family's special tokens and template.

    Args:
        name: of the family.
        template: in place of the family's.
        merges: pairs of characters (of the byte-level alphabet) that are one token where they meet.
    """
    family = FAMILIES[name]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocab = {token: number for number, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(family.special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=family.bos,
        eos_token=family.end_of_turn,
        additional_special_tokens=[t for t in family.special if t not in (family.bos, family.end_of_turn)],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(token, special=False) for token in family.plain])
    tokenizer.chat_template = template or template_text(name)
    return tokenizer
