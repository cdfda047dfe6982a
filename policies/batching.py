"""Samples, and their split into micro-batches by token budget, the same on every rank.

Legend: B sequences, T tokens, N loss positions (tokens with loss_mask 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DUMMY: tuple[int, ...] = ()
"""A micro-batch without samples: a rank that has none left runs it so that collectives stay in step."""


@dataclass(slots=True)
class Sample:
    """One sequence of a minibatch, with what the losses need of it."""

    token_ids: list[int]
    """[T] token ids as sampled and as added by the environment."""
    loss_mask: list[int]
    """[T] 1 where the policy sampled the token (SFT: where it is to be learned), else 0; the first is 0."""
    advantage: float = 0.0
    """Advantage of the whole sequence (SFT: unused)."""
    rollout_logprobs: list[float] | None = None
    """[T] log-probabilities of the rollout, 0.0 where loss_mask is 0."""
    ref_logprobs: list[float] | None = None
    """[T] log-probabilities under the reference, only needed for the KL term."""

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        if length == 0 or len(self.loss_mask) != length:
            raise ValueError(f"Sample.loss_mask must have one entry per token: {len(self.loss_mask)} for {length}")
        if self.loss_mask[0]:
            raise ValueError("Sample.loss_mask must start with 0: nothing predicts the first token")
        for name in ("rollout_logprobs", "ref_logprobs"):
            values = getattr(self, name)
            if values is not None and len(values) != length:
                raise ValueError(f"Sample.{name} must have one entry per token: {len(values)} for {length}")


@dataclass(slots=True)
class MicroBatch:
    """Right-padded sequences and their loss positions, flattened."""

    input_ids: Tensor
    """[B, T] int64."""
    positions: Tensor
    """[N] int64 into the flattened [B * T]: the token before each loss token, which predicts it."""
    targets: Tensor
    """[N] int64: the loss tokens."""
    advantages: Tensor
    """[N] float32."""
    rollout_logprobs: Tensor | None
    """[N] float32."""
    ref_logprobs: Tensor | None
    """[N] float32."""
    scale: float
    """1, or 0 for a dummy, whose loss must not count."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same on `device`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return MicroBatch(**{n: v.to(device) if isinstance(v, Tensor) else v for n, v in fields.items()})


def pack_by_budget(lengths: Sequence[int], budget: int) -> list[int]:
    """Cut descending `lengths` into consecutive groups with `longest * count <= budget`; return the groups' sizes.

    A sequence longer than the budget is a group of its own.
    """
    sizes: list[int] = []
    longest = 0
    for length in lengths:
        if sizes and longest * (sizes[-1] + 1) <= budget:
            sizes[-1] += 1
        else:
            sizes.append(1)
            longest = length
    return sizes


def split(lengths: Sequence[int], budget: int, ranks: int) -> list[list[tuple[int, ...]]]:
    """Split sequences into micro-batches, equally many on every rank.

    Sequences are sorted by length (longest first, ties by index) and cut into consecutive groups, so that padding is
    small; among all cuts into the fewest groups that respect the budget and fill the ranks evenly, the one with the
    smallest largest group is taken. Groups are dealt to the ranks in turn: the ranks' k-th micro-batches are of like
    size, and no rank waits long for another. What is left empty becomes a `DUMMY`.

    Args:
        lengths: [B] tokens per sequence.
        budget: most tokens of one micro-batch, padding counted; a longer sequence has one of its own.
        ranks: number of learner ranks.

    Returns:
        For each rank its micro-batches, each a tuple of indices into `lengths`.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    ordered = [lengths[i] for i in order]
    if not ordered:
        return [[] for _ in range(ranks)]
    steps = -(-len(pack_by_budget(ordered, budget)) // ranks)
    low, high = 1, budget
    while low < high:  # the smallest budget that still needs no more groups
        middle = (low + high) // 2
        if len(pack_by_budget(ordered, middle)) <= steps * ranks:
            high = middle
        else:
            low = middle + 1
    groups: list[tuple[int, ...]] = []
    start = 0
    for size in pack_by_budget(ordered, low):
        groups.append(tuple(order[start : start + size]))
        start += size
    groups += [DUMMY] * (steps * ranks - len(groups))
    return [groups[rank::ranks] for rank in range(ranks)]


def collate(samples: Sequence[Sample], chosen: Sequence[int]) -> MicroBatch:
    """Pad the chosen samples on the right and collect their loss positions, in the order of `chosen`.

    A `DUMMY` (nothing chosen) becomes two tokens with one loss position and `scale` 0: it runs every layer and hook
    that the other ranks run, and adds exact zeros to the gradient.
    """
    if not chosen:
        dummy = Sample([0, 0], [0, 1], rollout_logprobs=[0.0, 0.0], ref_logprobs=[0.0, 0.0])
        return _collate([dummy], scale=0.0)
    return _collate([samples[i] for i in chosen], scale=1.0)


def _collate(samples: list[Sample], scale: float) -> MicroBatch:
    width = max(len(s.token_ids) for s in samples)

    def padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *([0] * (width - len(row)))] for row in rows], dtype=dtype)

    input_ids = padded([s.token_ids for s in samples], torch.int64)
    loss_mask = padded([s.loss_mask for s in samples], torch.bool)
    where = loss_mask.flatten().nonzero().squeeze(-1)
    advantages = torch.tensor([s.advantage for s in samples], dtype=torch.float32)

    def at_loss_positions(rows: list[list[float] | None]) -> Tensor | None:
        present = [row for row in rows if row is not None]
        if len(present) < len(rows):
            return None
        return padded(present, torch.float32).flatten()[where]

    return MicroBatch(
        input_ids=input_ids,
        positions=where - 1,
        targets=input_ids.flatten()[where],
        advantages=advantages[where // width],
        rollout_logprobs=at_loss_positions([s.rollout_logprobs for s in samples]),
        ref_logprobs=at_loss_positions([s.ref_logprobs for s in samples]),
        scale=scale,
    )
