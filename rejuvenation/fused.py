"""The fused weights, computed block by block when asked for: widened once, fused step by step, rounded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from configs.rejuvenation import RejuvenationConfig
from rejuvenation.alignment import Alignment
from rejuvenation.blocks import Block, Workspace, assemble, blocks_of, in_order, workers
from rejuvenation.fusions import fusions_of
from rejuvenation.fusions.fusion import Fusion, Place
from rejuvenation.fusions.linear import Linear

Observer = Callable[[Block, torch.Tensor, torch.Tensor], None]
"""Sees a block of base and SFT checkpoint, widened; writes into neither."""
Step = tuple[Fusion, Any]
"""A fusion and its facts about one tensor."""


WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by size: bytes compare as these."""


def is_real(dtype: torch.dtype) -> bool:
    """Whether values of a dtype can be fused and measured."""
    return dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def fuse(
    steps: Sequence[Step],
    place: Place,
    base: torch.Tensor,
    sft: torch.Tensor,
    *,
    observe: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
    workspace: Workspace | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Fuse a block of rows in float32, rounded once to the dtype of `sft`.

    Every operation is one IEEE operation per entry (no fused multiply-add), so the bytes of linear fusion depend on no
    thread count, block size or instruction set. Where base and SFT checkpoint agree, and where every step skips the
    tensor, values are copied, not computed.

    Args:
        steps: fusions with their facts, in order.
        place: where the block stands.
        base: [rows, ...], any dtype.
        sft: the same shape; its dtype is the result's. float64 is computed in float64.
        observe: sees both, widened, before they are fused; not called for dtypes without arithmetic.
        workspace: where the wide copies are made; None takes fresh memory.
        out: like `sft`; the result may be put there.

    Raises:
        ValueError: the values differ and are not of a dtype that can be fused.
    """
    assert base.shape == sft.shape, (place.name, base.shape, sft.shape)
    steps = [step for step in steps if not step[0].skips(place)]
    keeps_equal = all(fusion.keeps_equal for fusion, _ in steps)
    copied = not steps or (keeps_equal and base.dtype == sft.dtype and same_bits(base, sft))
    if not (is_real(base.dtype) and is_real(sft.dtype)):
        if copied or sft.numel() == 0:
            return sft
        raise ValueError(
            f"values of dtype {base.dtype} and {sft.dtype} cannot be fused where they differ; use checkpoints in "
            "float64, float32, float16 or bfloat16."
        )
    if sft.numel() == 0 or (copied and observe is None):
        return sft
    workspace = workspace or Workspace()
    wide = torch.promote_types(sft.dtype, torch.float32)
    anchor, value = workspace.copy("base", base, wide), workspace.copy("sft", sft, wide)
    if observe is not None:
        observe(anchor, value)
    if copied:
        return sft
    value = chain(steps, place, base, anchor, value, workspace)
    if value is anchor and base.dtype == sft.dtype:
        return base
    if keeps_equal and sft.dtype == wide:  # a narrower dtype rounds alpha * x + (1 - alpha) * x back to x by itself
        whole = WHOLE[wide.itemsize]
        value = torch.where(base.to(wide).view(whole) == sft.view(whole), sft, value)
    return value.to(sft.dtype, copy=True) if out is None else out.copy_(value)


def chain(
    steps: Sequence[Step],
    place: Place,
    base: torch.Tensor,
    anchor: torch.Tensor,
    value: torch.Tensor,
    workspace: Workspace,
) -> torch.Tensor:
    """Fuse a block step by step, without rounding.

    Args:
        steps: fusions with their facts, in order.
        place: where the block stands.
        base: as it is stored.
        anchor: the same, widened; overwritten.
        value: of the SFT checkpoint, widened; overwritten.
        workspace: that of both.
    """
    for number, (fusion, facts) in enumerate(steps):
        if number:  # the step before may have written into both
            value = workspace.copy("sft", value, value.dtype)
            anchor = workspace.copy("base", base, value.dtype)
        value = fusion.fuse(place, anchor, value, facts)
    return value


def lerp(base: torch.Tensor, sft: torch.Tensor, alpha: float) -> torch.Tensor:
    """Alpha * sft + (1 - alpha) * base (arXiv 2606.09932, Eq. 1) of two stored tensors, in the dtype of `sft`.

    Raises:
        ValueError: the values differ and are not of a dtype that can be fused.
    """
    return fuse([(Linear(alpha), None)], Place("", tuple(sft.shape)), base, sft)


class Fused:
    """A view of two aligned checkpoints as one fused checkpoint; holds no weights.

    What a fusion has to know of whole tensors is measured when the view is made, in one pass over the weight files for
    each such fusion.

    Args:
        alignment: the two checkpoints.
        config: the fusion steps and their settings.
        seed: draws what is random in them.
    """

    def __init__(self, alignment: Alignment, config: RejuvenationConfig, *, seed: int = 0) -> None:
        self.alignment = alignment
        self.fusions = fusions_of(config, seed)
        self._facts: list[dict[str, Any]] = []
        for fusion in self.fusions:
            self._facts.append(self._measure(fusion) if fusion.measures else {})

    def _measure(self, fusion: Fusion) -> dict[str, Any]:
        """Facts about every tensor, as the steps before leave it."""
        before, workspace = len(self._facts), Workspace()
        entries = [
            entry
            for entry in self.alignment.sft.entries.values()
            if is_real(entry.dtype) and entry.numel and not fusion.skips(Place(entry.name, entry.shape))
        ]

        def measure(block: Block) -> tuple[str, torch.Tensor]:
            base, sft = self.alignment.base_rows(*block), self.alignment.sft.rows(*block)
            place, wide = self._place(block.name, block.start), torch.promote_types(sft.dtype, torch.float32)
            steps = [(step, known) for step, known in self._steps(block.name)[:before] if not step.skips(place)]
            anchor, value = workspace.copy("base", base, wide), workspace.copy("sft", sft, wide)
            value = chain(steps, place, base, anchor, value, workspace)
            return block.name, fusion.measure(place, workspace.copy("anchor", base, wide), value)

        totals: dict[str, torch.Tensor] = {}
        facts: dict[str, Any] = {}

        def add(measured: tuple[str, torch.Tensor]) -> None:
            name, part = measured
            for complete in totals.keys() - {name}:  # blocks come in order: a total is settled and dropped
                facts[complete] = fusion.settle(self._place(complete), totals.pop(complete))
            totals[name] = totals[name] + part if name in totals else part

        with workers() as pool:
            in_order(pool, measure, add, blocks_of(entries))
        return facts | {name: fusion.settle(self._place(name), total) for name, total in totals.items()}

    def _place(self, name: str, start: int = 0) -> Place:
        return Place(name, self.alignment.sft.entries[name].shape, start)

    def _steps(self, name: str) -> list[Step]:
        return [(fusion, facts.get(name)) for fusion, facts in zip(self.fusions, self._facts, strict=False)]

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
        """Rows [start, stop) of the fused tensor `name`, in the SFT checkpoint's dtype; see `fuse` for the rest.

        Raises:
            ValueError: the tensor cannot be fused; the message names it.
        """
        block = Block(name, start, stop)
        sft, base = self.alignment.sft.rows(*block), self.alignment.base_rows(*block)
        seen = (lambda anchor, value: observe(block, anchor, value)) if observe is not None else None
        try:
            return fuse(
                self._steps(name), self._place(name, start), base, sft, observe=seen, workspace=workspace, out=out
            )
        except ValueError as error:
            raise ValueError(f"tensor {name}: {error}") from error

    def tensor(self, name: str) -> torch.Tensor:
        """One whole fused tensor."""
        return assemble(self.alignment.sft.entries[name], self.rows)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one dtype hold the same bytes: -0.0 differs from 0.0, and a NaN equals itself."""
    whole = WHOLE[one.dtype.itemsize]
    return torch.equal(one.view(whole), other.view(whole))
