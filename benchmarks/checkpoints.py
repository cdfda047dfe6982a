"""Synthetic checkpoints of real shapes, written straight to disk: no model of their size is ever in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

BLOCK = 1 << 21
"""Numbers in the block of noise that is repeated through a checkpoint."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen2 with tied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool = True

    def tensors(self) -> dict[str, list[int]]:
        """Name and shape of every tensor, in the order of a saved model."""
        kv = self.hidden // self.heads * self.kv_heads
        found = {"model.embed_tokens.weight": [self.vocab, self.hidden]}
        for layer in range(self.layers):
            inside = {
                "input_layernorm.weight": [self.hidden],
                "mlp.down_proj.weight": [self.hidden, self.intermediate],
                "mlp.gate_proj.weight": [self.intermediate, self.hidden],
                "mlp.up_proj.weight": [self.intermediate, self.hidden],
                "post_attention_layernorm.weight": [self.hidden],
                "self_attn.k_proj.bias": [kv],
                "self_attn.k_proj.weight": [kv, self.hidden],
                "self_attn.o_proj.weight": [self.hidden, self.hidden],
                "self_attn.q_proj.bias": [self.hidden],
                "self_attn.q_proj.weight": [self.hidden, self.hidden],
                "self_attn.v_proj.bias": [kv],
                "self_attn.v_proj.weight": [kv, self.hidden],
            }
            found |= {f"model.layers.{layer}.{name}": shape for name, shape in inside.items()}
        found["model.norm.weight"] = [self.hidden]
        if not self.tied:
            found["lm_head.weight"] = [self.vocab, self.hidden]
        return found


QWEN2_HALF_B = Shape(hidden=896, layers=24, heads=14, kv_heads=2, intermediate=4864, vocab=151_936)
"""As Qwen2.5-0.5B: 494M parameters."""
QWEN2_3B = Shape(hidden=2048, layers=36, heads=16, kv_heads=2, intermediate=11_008, vocab=151_936)
"""As Qwen2.5-3B."""
QWEN2_7B = Shape(hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18_944, vocab=152_064, tied=False)
"""As Qwen2.5-7B."""


def write_synthetic(directory: Path, shape: Shape, *, seed: int, shard_bytes: int = 5_000_000_000) -> Path:
    """Write a bf16 checkpoint of noise and return its directory.

    Args:
        directory: made if missing.
        shape: of the model.
        seed: of the noise; two seeds differ in every tensor.
        shard_bytes: largest shard, as save_pretrained cuts them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    noise = (0.02 * torch.randn(BLOCK, generator=generator)).bfloat16().view(torch.uint8).numpy().tobytes()
    shards: list[dict[str, list[int]]] = [{}]
    filled = 0
    for name, sizes in shape.tensors().items():
        size = 2 * torch.Size(sizes).numel()
        if filled and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = sizes
        filled += size
    files = ["model.safetensors"]
    if len(shards) > 1:
        files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        index = {"metadata": {}, "weight_map": {name: f for f, s in zip(files, shards, strict=True) for name in s}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    for file, tensors in zip(files, shards, strict=True):
        _write_shard(directory / file, tensors, noise)
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    return directory


def _write_shard(path: Path, tensors: dict[str, list[int]], noise: bytes) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, sizes in tensors.items():
        end = offset + 2 * torch.Size(sizes).numel()
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, offset, len(noise)):
            file.write(noise[: offset - start])
