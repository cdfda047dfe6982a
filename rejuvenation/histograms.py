"""How token entropies are spread, as counts over fixed bins: reports of different repairs can be compared."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

EDGES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Lower edges of the bins in nats; the last bin has no upper end. Over-trained models differ below 0.1."""


@dataclass(frozen=True, slots=True)
class EntropyHistograms:
    """Tokens by entropy, teacher-forced on the calibration pairs; keys: base, sft, fused, rejuvenated."""

    edges: list[float]
    """[bins] lower edge of each bin, in nats; the last bin has no upper end."""
    at_targets: dict[str, list[int]]
    """[bins] target tokens of each checkpoint."""
    on_responses: dict[str, list[int]]
    """[bins] all response tokens of each checkpoint."""

    @classmethod
    def of(
        cls, entropies: Mapping[str, Sequence[torch.Tensor]], targets: Sequence[Sequence[int]]
    ) -> EntropyHistograms | None:
        """Histograms of measured entropies.

        Args:
            entropies: by checkpoint and pair [response tokens], nats.
            targets: per pair the indices of its target tokens in the response.

        Returns:
            None if nothing was measured.
        """
        if not entropies:
            return None
        rows = {name: [values.tolist() for values in per_pair] for name, per_pair in entropies.items()}
        at_targets = {
            name: counts([row[index] for row, chosen in zip(per_pair, targets, strict=True) for index in chosen])
            for name, per_pair in rows.items()
        }
        on_responses = {name: counts([value for row in per_pair for value in row]) for name, per_pair in rows.items()}
        return cls(list(EDGES), at_targets, on_responses)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EntropyHistograms:
        """The histograms that `asdict` gave these values."""
        return cls(**values)


def counts(values: Sequence[float]) -> list[int]:
    """[bins] how many values lie in each bin; a value on an edge belongs to the bin that begins there."""
    found = [0] * len(EDGES)
    for value in values:
        found[max(0, bisect_right(EDGES, value) - 1)] += 1  # rounding can leave an entropy just below 0
    return found
