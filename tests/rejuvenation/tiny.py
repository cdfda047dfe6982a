"""Tiny random Qwen2 checkpoints with random biases and norm weights: with 0 and 1 many checks would be vacuous."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rejuvenation.pairs import TokenPair

VOCAB = 61


def qwen2(seed: int, *, tied: bool = True, **overrides: Any) -> Qwen2ForCausalLM:
    """Three layers, 4 query heads on 2 KV heads; every parameter is random and of a size that matters."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "attn_implementation": "eager",
    }
    model = Qwen2ForCausalLM(Qwen2Config(**{**settings, **overrides})).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.copy_(1.0 + 0.3 * noise)
        elif name.endswith("bias"):
            parameter.copy_(0.5 * noise)
        elif "embed" in name or "lm_head" in name:
            parameter.copy_(0.7 * noise)
        else:
            parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return model


def moved(model: Qwen2ForCausalLM, seed: int, size: float = 0.1) -> Qwen2ForCausalLM:
    """A copy with every parameter moved by noise, as SFT would."""
    other = Qwen2ForCausalLM(model.config).eval().requires_grad_(False)
    other.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    for parameter in other.parameters():
        parameter.add_(size * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return other


def save(model: Any, path: Path, *, dtype: torch.dtype = torch.float32, shards: bool = False) -> Path:
    """Write a checkpoint directory, in one file or in several shards."""
    stored = type(model)(model.config)
    stored.load_state_dict(model.state_dict())
    stored.to(dtype).save_pretrained(path, max_shard_size="10KB" if shards else "5GB")
    assert len(list(path.glob("*.safetensors"))) > 3 or not shards
    return path


def token_pairs(count: int, seed: int = 0, vocab: int = VOCAB) -> list[TokenPair]:
    """Random pairs of unequal length."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(vocab) for _ in range(rng.randint(low, high))]

    return [TokenPair(tokens(2, 7), tokens(3, 12)) for _ in range(count)]
