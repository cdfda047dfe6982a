"""Tiny random checkpoints with random biases and norm weights: with 0 and 1 many checks would be vacuous."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rejuvenation.pairs import TokenPair

VOCAB = 61

ARCHITECTURES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),  # biases on q, k, v
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 12}),  # qk-norm; heads wider than hidden / heads
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),  # biases on all seven
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 4}),  # no bias; shorter than the test's pairs
}
KINDS_OF_MODEL = [("qwen2", True), ("qwen2", False), ("qwen3", True), ("llama", False), ("mistral", False)]
"""Architecture and whether the lm_head is tied."""


def tiny(architecture: str, seed: int, *, tied: bool = True, **overrides: Any) -> PreTrainedModel:
    """Three layers, 4 query heads on 2 KV heads; every parameter is random and of a size that matters."""
    config_class, model_class, own = ARCHITECTURES[architecture]
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
    model = model_class(config_class(**{**settings, **own, **overrides})).eval().requires_grad_(False)
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


def qwen2(seed: int, *, tied: bool = True, **overrides: Any) -> PreTrainedModel:
    """The architecture of the toys."""
    return tiny("qwen2", seed, tied=tied, **overrides)


def moved(model: PreTrainedModel, seed: int, size: float = 0.1) -> PreTrainedModel:
    """A copy with every parameter moved by noise, as SFT would."""
    other = type(model)(model.config).eval().requires_grad_(False)
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
