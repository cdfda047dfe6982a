"""The repaired weights, computed tensor by tensor when asked for: the reset, inside the fused weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from configs.rejuvenation import RejuvenationConfig
from rejuvenation.blocks import Workspace
from rejuvenation.fused import Fused, Observer
from rejuvenation.neurons import Module, NeuronTable
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
        self._modules: dict[str, tuple[Module, torch.Tensor]] = {}
        if table is not None and selected is not None:
            assert selected.shape == (table.total,), (selected.shape, table.total)
            for module in table.modules:
                self._modules[f"{module.path}.weight"] = module, selected[module.neurons]
                if module.axis == 0:  # a column has no bias entry of its own
                    self._modules[f"{module.path}.bias"] = module, selected[module.neurons]

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
        if name not in self._modules:
            return fused
        module, selected = self._modules[name]
        if module.axis == 0:
            selected = selected[start:stop]
        base = self.fused.alignment.base_rows(name, start, stop)
        return reset(
            fused, base, selected, axis=module.axis, target=self.config.reset_target, strength=self.config.strength
        )

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every repaired tensor with its name, one at a time."""
        for name, entry in self.fused.alignment.sft.entries.items():
            yield name, self.rows(name, 0, entry.shape[0] if entry.shape else 0)
