"""Entropy histograms as bars of a known height, drawn by the page's template and by `figures`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from rejuvenation.histograms import EntropyHistograms
from rejuvenation.report import Report
from rejuvenation.verdict import nats

CHECKPOINTS = {"base": "base", "sft": "SFT (before)", "fused": "fused only", "rejuvenated": "rejuvenated (after)"}
"""The four checkpoints in the order they are shown, with their labels."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin of a histogram."""

    share: float
    """Of the checkpoint's tokens."""
    height: float
    """Percent of the tallest bar of the panel."""
    title: str


@dataclass(frozen=True, slots=True)
class Panel:
    """The histograms of all checkpoints over the same tokens."""

    title: str
    num_tokens: int
    rows: list[tuple[str, str, str, list[Bar]]]
    """Name, label, mean and bars of each checkpoint."""


def panels(report: Report) -> list[Panel]:
    """Entropy histograms at the target tokens and over all response tokens; none where nothing was measured."""
    histograms = report.entropy_histograms
    if histograms is None or report.entropy_at_targets is None or report.entropy_on_responses is None:
        return []
    found = []
    for title, counted, means in (
        ("Target tokens", histograms.at_targets, report.entropy_at_targets),
        ("All response tokens", histograms.on_responses, report.entropy_on_responses),
    ):
        total = sum(counted["sft"])
        tallest = max(max(counts) for counts in counted.values()) or 1
        rows = []
        for name, label in CHECKPOINTS.items():
            bars = [
                Bar(count / total, 100 * count / tallest, f"{label}, {span}: {count:,} of {total:,} tokens")
                for count, span in zip(counted[name], spans(histograms), strict=True)
            ]
            rows.append((name, label, nats(getattr(means, name)), bars))
        found.append(Panel(title, total, rows))
    return found


def spans(histograms: EntropyHistograms) -> list[str]:
    """The bins in words."""
    edges = [f"{edge:g}" for edge in histograms.edges]
    return [f"{low} to {high} nats" for low, high in pairwise(edges)] + [f"above {edges[-1]} nats"]


def axis_labels(histograms: EntropyHistograms) -> list[str]:
    """What stands below the bins' lower edges: 0 and the powers of ten; all edges would run into each other."""
    return [f"{edge:g}" if edge == 0.0 or math.log10(edge).is_integer() else "" for edge in histograms.edges]


def above(report: Report, threshold: float, checkpoint: str) -> float:
    """Share of all response tokens with an entropy of at least `threshold`, which is an edge of the histograms."""
    histograms = report.entropy_histograms
    assert histograms is not None
    counts = histograms.on_responses[checkpoint]
    return sum(counts[histograms.edges.index(threshold) :]) / sum(counts)
