"""Supervised fine-tuning with one of the learner's SFT losses."""

from __future__ import annotations

from dataclasses import dataclass

from configs import bounds


@dataclass(frozen=True, slots=True)
class SftConfig:
    """`rejuvenate sft`: fine-tune `model.base` on demonstrations."""

    data: str | None = None
    """JSONL of `{"messages": [...]}`; null takes the environment's own demonstrations."""
    examples: int = 128
    """Demonstrations drawn from the environment where `data` is null."""
    loss: str = "sft"
    """`sft` (cross entropy) or `dft` (cross entropy of each token times its probability, arXiv 2508.05629)."""
    steps: int = 100
    """Optimizer steps."""
    batch_size: int = 64
    """Examples per optimizer step, drawn by shuffled passes over the data."""
    save_steps: list[int] | None = None
    """Optimizer steps after which a checkpoint of the ladder is exported, besides the last."""

    def __post_init__(self) -> None:
        bounds.one_of("sft.", "loss", self.loss, ("sft", "dft"))
        for name in ("examples", "steps", "batch_size"):
            bounds.at_least("sft.", name, getattr(self, name), 1)
        for step in self.save_steps or []:
            bounds.within("sft.", "save_steps", step, 1, self.steps)
