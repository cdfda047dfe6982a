"""The repaired weights, computed tensor by tensor when asked for: the reset, inside the fused weights."""

from __future__ import annotations

import torch

from configs.rejuvenation import RejuvenationConfig
from rejuvenation.blocks import Workspace, assemble
from rejuvenation.fused import Fused, Observer
from rejuvenation.neurons import NeuronTable
from rejuvenation.reset import reset


class Repair:
    """A view of fused weights in which some neurons are reset; holds no weights.

    Args:
        fused: the fused checkpoint.
        config: reset target and strength.
        table: the model's neurons; None for fusion alone.
        selected: [number of neurons] bool, the neurons to reset; None for fusion alone.
    """

    def __init__(
        self,
        fused: Fused,
        config: RejuvenationConfig,
        table: NeuronTable | None = None,
        selected: torch.Tensor | None = None,
    ) -> None:
        self.fused = fused
        self.config = config
        self._masks = table.masks(selected) if table is not None and selected is not None else {}

    def rows(
        self,
        name: str,
        start: int,
        stop: int,
        *,
        observe: Observer | None = None,
        workspace: Workspace | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rows [start, stop) of the repaired tensor `name`, in the SFT checkpoint's dtype; see `Fused.rows`."""
        fused = self.fused.rows(name, start, stop, observe=observe, workspace=workspace, out=out)
        if name not in self._masks:
            return fused
        axis, mask = self._masks[name]
        if axis == 0:
            mask = mask[start:stop]
        base = self.fused.alignment.base_rows(name, start, stop)
        return reset(fused, base, mask, axis=axis, target=self.config.reset_target, strength=self.config.strength)

    def tensor(self, name: str) -> torch.Tensor:
        """One whole repaired tensor."""
        return assemble(self.fused.alignment.sft.entries[name], self.rows)
