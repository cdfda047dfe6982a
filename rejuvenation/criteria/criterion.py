"""The one shape of all criteria that score neurons at target tokens.

Shapes: N targets of one pair, T tokens, R rows of all their prefixes, D hidden size, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rejuvenation.backward import Prefixes
from rejuvenation.neurons import WRITERS, Module


@dataclass(frozen=True, slots=True)
class ModuleView:
    """What is known of one linear map at the targets of one pair. All numbers are float32 or wider."""

    module: Module
    prefixes: Prefixes
    """Of the targets."""
    inputs: torch.Tensor | None
    """[T, in]; None where the criterion does not ask for it and the module is no writer."""
    outputs: torch.Tensor
    """[T, out], before rotary embedding and norms."""
    gradients: torch.Tensor
    """Of the N quantities that are attributed: of k and v [R, out], one target's prefix after the other; of q, gate, up
    [N, out] at the targets; of a writer [N, D], the direct path to the last norm."""
    linear: Any
    """The module itself."""
    base: Callable[[], tuple[torch.Tensor, torch.Tensor | None]]
    """Reads the base checkpoint's weight and bias."""

    @property
    def weight(self) -> torch.Tensor:
        """[out, in]."""
        weight: torch.Tensor = self.linear.weight.to(self.gradients.dtype)
        return weight

    @property
    def bias(self) -> torch.Tensor | None:
        """[out]."""
        return None if self.linear.bias is None else self.linear.bias.to(self.gradients.dtype)

    @property
    def is_writer(self) -> bool:
        """Whether the module writes to the residual stream: its neurons are columns."""
        return self.module.kind in WRITERS

    @property
    def positions(self) -> torch.Tensor:
        """[N] int64, the targets."""
        return self.prefixes.positions

    @property
    def is_summed(self) -> bool:
        """Whether a neuron acts on a target from all positions of its prefix."""
        return self.module.kind in ("k", "v")

    def activations(self) -> torch.Tensor:
        """[N, neurons] at the targets: a writer's inputs, another's outputs."""
        if self.is_writer:
            assert self.inputs is not None
            return self.inputs[self.positions]
        return self.outputs[self.positions]

    def gradients_at_targets(self) -> torch.Tensor:
        """[N, neurons] gradients in the activations, at the target itself."""
        if self.is_writer:
            return self.gradients @ self.weight
        return self.gradients[self.prefixes.own] if self.is_summed else self.gradients

    def dot_gradient(self, values: torch.Tensor) -> torch.Tensor:
        """Gradient x value [T, out], at t for q, gate, up; summed over the prefix 0..t for k and v -> [N, out]."""
        if self.is_summed:
            return self.prefixes.sums(values, self.gradients)
        return values[self.positions] * self.gradients_at_targets()


class Criterion(ABC):
    """Scores neurons at target tokens; the higher, the rather reset."""

    needs_inputs = False
    """Whether `ModuleView.inputs` is needed for all modules."""

    def readout(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Gradient in the logits [N, V] of what is attributed; None: of the gold token's logit."""
        return None

    @abstractmethod
    def score(self, view: ModuleView) -> torch.Tensor:
        """[N, neurons] scores of one module."""

    def rank(self, mean: torch.Tensor) -> torch.Tensor:
        """Scores [neurons] of one module to rank by, from their mean over all targets.

        Criteria in `configs.rejuvenation.PER_TARGET` rank neurons for each target (Eq. 4) instead.
        """
        return mean
