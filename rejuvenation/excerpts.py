"""The tokens that a repair changed most, in their context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rejuvenation.pairs import TokenPair
from rejuvenation.token_texts import TokenTexts

if TYPE_CHECKING:
    import torch

MOST_EXCERPTS = 8
WINDOW = 80
"""Tokens of an excerpt: few enough to be read, and the report stays small."""
DIGITS = 4
SHOWN = ("base", "sft", "rejuvenated")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Part of one calibration pair, one entry per token. The end of the prompt may come first."""

    pair: int
    """Number of the pair among those used."""
    change: float
    """Mean |H_rejuvenated - H_sft| over the pair's target tokens, in nats."""
    texts: list[str]
    """[tokens] text that each token adds; "" where it is part of the next token's character."""
    targets: list[int]
    """Indices of the target tokens in this excerpt."""
    entropies: dict[str, list[float | None]]
    """base, sft, rejuvenated: [tokens] entropy in nats of the model's prediction of each token; null in the prompt."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Excerpt:
        """The excerpt that `asdict` gave these values."""
        return cls(**values)


def excerpts(
    pairs: Sequence[TokenPair],
    entropies: Mapping[str, Sequence[torch.Tensor]],
    targets: Sequence[Sequence[int]],
    texts: TokenTexts,
) -> list[Excerpt]:
    """The pairs whose target tokens changed most, largest change first; each cut to a window around those tokens.

    Args:
        pairs: calibration pairs.
        entropies: by checkpoint and pair [response tokens], nats.
        targets: per pair the indices of its target tokens in the response.
        texts: gives the texts of tokens.

    Returns:
        At most `MOST_EXCERPTS`; none if nothing was measured.
    """
    if not entropies:
        return []
    rows = {name: [values.tolist() for values in entropies[name]] for name in SHOWN}
    moved = [
        {index: abs(after[index] - before[index]) for index in chosen}
        for before, after, chosen in zip(rows["sft"], rows["rejuvenated"], targets, strict=True)
    ]
    mean = [sum(changes.values()) / len(changes) for changes in moved]
    order = sorted(range(len(pairs)), key=lambda number: -mean[number])[:MOST_EXCERPTS]  # stable: ties as they come
    found = []
    for number in order:
        pair, changes = pairs[number], moved[number]
        prompt = len(pair.prompt_ids)
        weights = [0.0] * prompt + [changes.get(index, 0.0) for index in range(len(pair.response_ids))]
        start = window(weights)
        stop = min(start + WINDOW, len(weights))
        cut = {
            name: [None if at < prompt else round(per_pair[number][at - prompt], DIGITS) for at in range(start, stop)]
            for name, per_pair in rows.items()
        }
        inside = [index + prompt - start for index in targets[number] if start <= index + prompt < stop]
        found.append(Excerpt(number, mean[number], texts(pair.token_ids[:stop], start), inside, cut))
    return found


def window(weights: Sequence[float]) -> int:
    """Where a window of `WINDOW` tokens begins that holds as much weight as possible; of several, the middle one."""
    sums = [sum(weights[start : start + WINDOW]) for start in range(max(1, len(weights) - WINDOW + 1))]
    most = max(sums)
    best = [start for start, held in enumerate(sums) if held >= most * (1 - 1e-9)]
    return best[len(best) // 2]
