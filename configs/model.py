"""Which checkpoints a run starts from."""

from __future__ import annotations

from dataclasses import dataclass

from configs import bounds
from configs.errors import ConfigError

STARTS = ("rejuvenated", "sft", "base")


@dataclass(frozen=True, slots=True)
class ShapeConfig:
    """Shape of the model, so that `plan` can count without the checkpoints at hand."""

    hidden_size: int = 0
    """Width of the residual stream."""
    num_layers: int = 0
    """Number of decoder layers."""
    num_heads: int = 0
    """Number of query heads per layer."""
    num_kv_heads: int = 0
    """Number of key/value heads per layer."""
    intermediate_size: int = 0
    """Width of the MLP."""
    vocab_size: int = 0
    """Rows of the token embedding."""
    tied_embeddings: bool = True
    """Whether the lm_head shares the embedding's weight."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "vocab_size"):
            bounds.at_least("model.shape.", name, getattr(self, name), 1)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                "model.shape.num_kv_heads",
                f"must divide num_heads ({self.num_heads})",
                self.num_kv_heads,
                "Copy both from the checkpoint's config.json.",
            )

    @property
    def num_parameters(self) -> int:
        """Parameters of a Qwen2-shaped model (q, k, v biases; SwiGLU MLP; RMSNorm)."""
        head_dim = self.hidden_size // self.num_heads
        kv = self.num_kv_heads * head_dim
        attention = 2 * self.hidden_size * self.hidden_size + 2 * self.hidden_size * kv + self.hidden_size + 2 * kv
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * layer + embeddings + self.hidden_size


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The base and the (over-trained) SFT checkpoint, and which of the two, or their repair, RL starts from."""

    base: str = "???"
    """Base checkpoint: a Hugging Face directory, or a hub name `organisation/name`."""
    sft: str = "???"
    """SFT checkpoint of the same architecture: a directory or a hub name."""
    start: str = "rejuvenated"
    """What RL starts from: `rejuvenated` (sft after fusion and reset), `sft` or `base`, both as they are."""
    shape: ShapeConfig | None = None
    """Shape of the model; needed by `plan` only where the checkpoints are not on this machine."""

    def __post_init__(self) -> None:
        bounds.one_of("model.", "start", self.start, STARTS)
