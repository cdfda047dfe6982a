"""Layers by modules as fields of a map: drift, and neurons reset; drawn by the page's template and by `figures`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rejuvenation.colours import STEPS
from rejuvenation.report import Report

MOST_ROWS = 40
"""Layers up to which a map has room for numbers."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of a heat map."""

    text: str
    title: str
    step: int | None
    """Shade, 0 to STEPS - 1; None has no colour."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Shares by layer and module."""

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    """Label and cells of each layer, then of all layers together."""
    peak: str
    """The largest value: the strongest shade."""
    values: list[list[float | None]]
    """[layers][modules] shares, 0 to 1."""

    @property
    def dense(self) -> bool:
        """Whether there are too many layers for a number in each field."""
        return len(self.values) > MOST_ROWS


def drift_map(report: Report) -> HeatMap | None:
    """How far SFT moved each module of each layer; a last row for all layers. None where there are no such modules."""
    values = report.drift_by_module
    if not values:
        return None
    whole = {kind: report.drift.get(kind) for kind in values}
    return _heat_map(values, {}, whole, "moved by {} of base's norm")


def reset_map(report: Report) -> HeatMap | None:
    """Share of the neurons reset (as Fig. 10 of arXiv 2606.09932); None where none was."""
    if not report.num_reset or not report.neurons:
        return None
    counts, sizes = report.counts, report.neurons
    shares: dict[str, list[float | None]] = {
        kind: [_share(*pair) for pair in zip(counts[kind], sizes[kind], strict=True)] for kind in counts
    }
    details = {
        kind: [f"{count:,} of {size:,} neurons" for count, size in zip(counts[kind], sizes[kind], strict=True)]
        for kind in counts
    }
    num_layers = len(report.counts_per_layer)
    per_layer = [
        _share(report.counts_per_layer[at], sum(sizes[kind][at] for kind in sizes)) for at in range(num_layers)
    ]
    whole = {kind: _share(sum(counts[kind]), sum(sizes[kind])) for kind in counts}
    return _heat_map(shares, details, whole, "{} reset", (per_layer, report.effective_ratio))


def _heat_map(
    shares: Mapping[str, Sequence[float | None]],
    details: Mapping[str, Sequence[str]],
    by_kind: Mapping[str, float | None],
    meaning: str,
    by_layer: tuple[Sequence[float | None], float | None] | None = None,
) -> HeatMap:
    """Shares as a map.

    Args:
        shares: kind -> [layers].
        details: kind -> [layers], added to the cells' titles; may be empty.
        by_kind: kind -> share over all layers: the last row.
        meaning: of a share, in words.
        by_layer: [layers] share over all modules, and the share of the whole: the last column.
    """
    kinds, num_layers = list(shares), len(next(iter(shares.values())))
    peak = max((share for column in shares.values() for share in column if share is not None), default=0.0)
    digits = max(1, 1 - math.floor(math.log10(100 * peak))) if peak else 1

    def cell(share: float | None, where: str, detail: str = "", *, shaded: bool = False) -> Cell:
        if share is None:
            return Cell("", f"{where}: none", None)
        number = f"{100 * share:.{digits}f}"
        step = round(share / peak * (STEPS - 1)) if peak else 0
        title = f"{where}: {meaning.format(number + ' %')}"
        return Cell(number, f"{title} ({detail})" if detail else title, step if shaded else None)

    rows = []
    for layer in range(num_layers):
        cells = [
            cell(shares[kind][layer], f"layer {layer}, {kind}", details[kind][layer] if details else "", shaded=True)
            for kind in kinds
        ]
        rows.append((str(layer), cells))
    rows.append(("all", [cell(by_kind[kind], f"{kind}, all layers") for kind in kinds]))
    columns = list(kinds)
    if by_layer is not None and num_layers <= MOST_ROWS:
        columns.append("all")
        for (label, cells), share in zip(rows, [*by_layer[0], by_layer[1]], strict=True):
            cells.append(cell(share, f"layer {label}" if label != "all" else "all layers"))
    values = [
        [None if (s := shares[kind][layer]) is None else 100 * s for kind in kinds] for layer in range(num_layers)
    ]
    return HeatMap(columns, rows, f"{100 * peak:.{digits}f} %", values)


def _share(count: int, size: int) -> float | None:
    return count / size if size else None
