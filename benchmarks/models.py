"""The two model sizes of the benchmarks: random weights, the toy's 64-token tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from examples.toy.tokenizer import build_tokenizer

SIZES = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 352, "num_attention_heads": 4},
    "mid": {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1344, "num_attention_heads": 8},
}
"""0.75M and 22.6M parameters, float32."""


def make_model(size: str, directory: Path, end_tokens: int = 1) -> Path:
    """Write a checkpoint and return its directory.

    Args:
        size: a key of `SIZES`.
        directory: made if missing.
        end_tokens: how many of the 64 tokens end a turn: random weights draw each about as often, so that turns last
            64 / end_tokens tokens in the mean where no limit cuts them.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        num_key_value_heads=SIZES[size]["num_attention_heads"] // 2,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES[size],
    )
    model = Qwen2ForCausalLM(config)
    ends = [tokenizer.eos_token_id, *range(len(tokenizer) - end_tokens + 1, len(tokenizer))]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
