"""Pico checkpoints for tests: the smallest real Qwen2, made from code in well under a second."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

PAD, EOS = "<|endoftext|>", "<eos>"
ROLES = ("<sys>", "<user>", "<asst>", "<tool>")
CHARACTERS = (
    string.digits + string.ascii_lowercase + string.ascii_uppercase + string.punctuation + "ĠĊ"
)  # ĠĊ: space and newline, byte-level

# One role token, the text, one end-of-turn token: what an engine samples for an assistant turn is its text and EOS.
CHAT_TEMPLATE = (
    "{%- if tools %}{{ '<sys>' + (tools | tojson) + '<eos>' }}{% endif -%}"
    "{%- for message in messages -%}"
    "{{ {'system': '<sys>', 'user': '<user>', 'assistant': '<asst>', 'tool': '<tool>'}[message['role']] }}"
    "{{ message['content'] + '<eos>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<asst>' }}{% endif -%}"
)


def make_tokenizer(chat_template: str = CHAT_TEMPLATE, specials: tuple[str, ...] = ()) -> Qwen2Tokenizer:
    """Return a tokenizer of single characters, with role tokens, `EOS` as end of turn, and a chat template.

    It is a Qwen2Tokenizer without merges, because AutoTokenizer rebuilds every tokenizer beside a qwen2 config as one.
    """
    names = [PAD, EOS, *ROLES, *specials]
    vocab = {token: index for index, token in enumerate([*names, *CHARACTERS])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        unk_token=PAD,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[*ROLES, *specials],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_checkpoint(
    directory: str | Path,
    *,
    tied: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    hidden_size: int = 128,
    num_layers: int = 2,
    scale: float = 0.08,
) -> Path:
    """Write a Hugging Face checkpoint of a random Qwen2 (4 heads, 2 key/value heads) and return its directory.

    Biases and norms are random too: a transfer that drops or swaps one of them changes the log-probabilities.

    Args:
        directory: where to write; made if missing.
        tied: whether the lm_head shares the embedding's weight.
        seed: of the random weights; two checkpoints of different seeds differ in every tensor.
        dtype: dtype of the tensors on disk.
        hidden_size: width of the residual stream, a multiple of 128: vLLM on CPU wants heads of 32, 64, ... dimensions.
        num_layers: decoder layers.
        scale: standard deviation of the weights; large enough that log-probabilities are far from uniform.
    """
    directory = Path(directory)
    tokenizer = make_tokenizer()
    eos, pad = tokenizer.convert_tokens_to_ids([EOS, PAD])
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    model = Qwen2ForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else scale * noise)
    model.to(dtype)
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def reference_logprobs(
    directory: str | Path,
    weights: Mapping[str, torch.Tensor] | None,
    sequences: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[list[float]]:
    """Return what transformers in float32 gives each token after those before it; 0.0 for the first.

    Args:
        directory: checkpoint directory.
        weights: checkpoint-named tensors in place of those in `directory`, or None.
        sequences: token ids.
        temperature: by which the logits are divided.
    """
    model = Qwen2ForCausalLM.from_pretrained(directory, dtype=torch.float32)
    if weights is not None:
        missing, unexpected = model.load_state_dict(dict(weights), strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}
    found = []
    for token_ids in sequences:
        ids = torch.tensor([list(token_ids)])
        with torch.no_grad():
            logprobs = (model(ids).logits[0, :-1] / temperature).log_softmax(-1)
        found.append([0.0, *logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()])
    return found
