"""The decoders written a second time, in float64 and head by head: what the package's scores are compared with.

Qwen2, Qwen3 (qk-norm), Llama and Mistral (sliding window) differ in what their config and their tensors say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Run:
    """Activations of one forward pass over T tokens."""

    embedding: torch.Tensor
    final: torch.Tensor  # [T, D] residual stream before the final norm
    outputs: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict)  # [T, outputs] of each module
    inputs: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict)


@dataclass
class Scaling:
    """Multiply one output of one module by `factor` at some positions."""

    layer: int
    kind: str
    index: int
    positions: list[int]
    factor: float


def head_dim_of(config: Any) -> int:
    """Width of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class Reference:
    def __init__(self, model: Any) -> None:
        self.weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
        self.config = model.config

    def norm(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        scale = torch.rsqrt((hidden * hidden).mean(-1, keepdim=True) + self.config.rms_norm_eps)
        return hidden * scale * self.weights[name]

    def head_norm(self, vectors: torch.Tensor, name: str) -> torch.Tensor:
        """qk-norm of one head, where the architecture has it."""
        return self.norm(vectors, name) if name in self.weights else vectors

    def rotate(self, vectors: torch.Tensor) -> torch.Tensor:
        """Rotary embedding of one head [T, dims]: entries i and i + half turn by position / theta^(i / half)."""
        half = vectors.shape[1] // 2
        speed = self.config.rope_parameters["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(len(vectors), dtype=torch.float64)[:, None] * speed
        first, second = vectors[:, :half], vectors[:, half:]
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], 1)

    def run(self, token_ids: list[int], scaling: Scaling | None = None) -> Run:
        config, weights = self.config, self.weights
        hidden = weights["model.embed_tokens.weight"][token_ids]
        run = Run(embedding=hidden, final=hidden)
        head_dim = head_dim_of(config)
        window = getattr(config, "sliding_window", None) or len(token_ids)
        per_kv = config.num_attention_heads // config.num_key_value_heads

        def linear(layer: int, kind: str, path: str, value: torch.Tensor) -> torch.Tensor:
            name = f"model.layers.{layer}.{path}_proj"
            output = value @ weights[f"{name}.weight"].T
            if f"{name}.bias" in weights:
                output = output + weights[f"{name}.bias"]
            if scaling is not None and (scaling.layer, scaling.kind) == (layer, kind):
                output = output.clone()
                output[scaling.positions, scaling.index] *= scaling.factor
            run.inputs[layer, kind], run.outputs[layer, kind] = value, output
            return output

        for layer in range(config.num_hidden_layers):
            normed = self.norm(hidden, f"model.layers.{layer}.input_layernorm.weight")
            q = linear(layer, "q", "self_attn.q", normed)
            k = linear(layer, "k", "self_attn.k", normed)
            v = linear(layer, "v", "self_attn.v", normed)
            mixed = torch.zeros(len(token_ids), config.num_attention_heads * head_dim, dtype=torch.float64)
            reachable = torch.ones(len(token_ids), len(token_ids)).tril().triu(1 - window).bool()
            for head in range(config.num_attention_heads):
                mine = slice(head * head_dim, (head + 1) * head_dim)
                shared = slice((head // per_kv) * head_dim, (head // per_kv + 1) * head_dim)
                query, key = (
                    self.rotate(self.head_norm(vectors, f"model.layers.{layer}.self_attn.{name}_norm.weight"))
                    for vectors, name in ((q[:, mine], "q"), (k[:, shared], "k"))
                )
                logits = query @ key.T / math.sqrt(head_dim)
                mixed[:, mine] = logits.masked_fill(~reachable, -math.inf).softmax(1) @ v[:, shared]
            hidden = hidden + linear(layer, "o", "self_attn.o", mixed)
            normed = self.norm(hidden, f"model.layers.{layer}.post_attention_layernorm.weight")
            gate = linear(layer, "gate", "mlp.gate", normed)
            up = linear(layer, "up", "mlp.up", normed)
            hidden = hidden + linear(layer, "down", "mlp.down", gate * torch.sigmoid(gate) * up)
        run.final = hidden
        return run

    def scale(self, run: Run, t: int) -> torch.Tensor:
        return torch.rsqrt((run.final[t] ** 2).mean() + self.config.rms_norm_eps)

    def direction(self, scale: torch.Tensor, gold: int) -> torch.Tensor:
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return scale * self.weights["model.norm.weight"] * head[gold]

    def logit(self, run: Run, t: int, gold: int, frozen: torch.Tensor | None = None) -> float:
        """The gold token's logit; with `frozen`, the final norm's scale is that constant."""
        scale = self.scale(run, t) if frozen is None else frozen
        return float(run.final[t] @ self.direction(scale, gold))
