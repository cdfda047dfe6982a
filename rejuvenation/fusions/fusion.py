"""The one shape of all fusion steps: a pure function of a tensor and its base, computed block of rows by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from rejuvenation.checkpoint import CheckpointReader


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block of rows stands."""

    name: str
    """The tensor's name in the checkpoint."""
    shape: tuple[int, ...]
    """The whole tensor's."""
    start: int = 0
    """First row of the block."""

    @property
    def first(self) -> int:
        """Index of the block's first number in the whole tensor."""
        return self.start * torch.Size(self.shape[1:]).numel()


class Fusion(ABC):
    """One fusion step. Numbers are float32 (float64 where the SFT checkpoint stores that); rounding comes last.

    A step that needs to know the whole tensor first (`measures`) adds up `measure` over its blocks, in order, turns
    the sum into `facts` with `settle`, and gets them back with every block.
    """

    keeps_equal = True
    """Where base and SFT checkpoint agree, nothing changes: such tensors are copied, not computed."""
    measures = False
    """Whether `measure` is needed."""

    def check(self, sft: CheckpointReader) -> None:
        """Refuse a checkpoint that the step cannot treat, before anything starts.

        Raises:
            ConfigError: says why, and what to do.
        """
        return

    def skips(self, place: Place) -> bool:
        """Whether this tensor stays as it is."""
        return False

    def measure(self, place: Place, base: torch.Tensor, sft: torch.Tensor) -> torch.Tensor:
        """What a block adds to the measurement of its tensor; writes into neither argument."""
        raise NotImplementedError(f"{type(self).__name__} measures nothing")

    def settle(self, place: Place, total: torch.Tensor) -> Any:
        """The facts that the measurement of a whole tensor gives."""
        return total

    @abstractmethod
    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """The fused block.

        Args:
            place: where the block stands.
            base: [rows, ...] of the base checkpoint; may be overwritten.
            sft: [rows, ...] of the SFT checkpoint, or of the step before; may be overwritten.
            facts: of the tensor.

        Returns:
            [rows, ...], maybe in the memory of `sft`. `base` itself means that the base's values are copied.
        """

    def __call__(self, base: torch.Tensor, sft: torch.Tensor, name: str = "weight") -> torch.Tensor:
        """Fuse one whole tensor; the arguments stay as they are."""
        place = Place(name, tuple(sft.shape))
        if self.skips(place):
            return sft.clone()
        facts = self.settle(place, self.measure(place, base, sft)) if self.measures else None
        return self.fuse(place, base.clone(), sft.clone(), facts)
