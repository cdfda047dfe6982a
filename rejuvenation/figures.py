"""The report's figures as PNG files, for slides and documents."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rejuvenation import charts, colours
from rejuvenation.heat_maps import HeatMap, drift_map, reset_map
from rejuvenation.report import Report

DPI = 130


def write_figures(report: Report, folder: Path) -> list[str]:
    """Draw entropy.png, drift.png and reset.png, those of them that there is something for.

    Args:
        report: what is drawn.
        folder: made if it does not exist.

    Returns:
        The names of the files written.
    """
    drawings: dict[str, Callable[[], Any]] = {}
    if panels := charts.panels(report):
        assert report.entropy_histograms is not None
        drawings["entropy.png"] = partial(entropy_figure, panels, charts.axis_labels(report.entropy_histograms))
    if (drift := drift_map(report)) is not None:
        drawings["drift.png"] = partial(heat_figure, drift, "SFT moved the weights", "% of base's norm")
    if (reset := reset_map(report)) is not None:
        drawings["reset.png"] = partial(heat_figure, reset, "Neurons reset", "% of the neurons")
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in drawings.items():
        draw().savefig(folder / name, dpi=DPI, metadata={"Software": None})
    return list(drawings)


def entropy_figure(panels: list[charts.Panel], labels: list[str]) -> Any:
    """Histograms: a column per set of tokens, a row per checkpoint, all on one scale."""
    from matplotlib.figure import Figure

    rows = len(panels[0].rows)
    figure = Figure(figsize=(11, 1.35 * rows + 1), layout="constrained")
    grid = figure.subplots(rows, len(panels), sharex=True, sharey="col", squeeze=False)
    for column, panel in enumerate(panels):
        for row, (name, label, mean, bars) in enumerate(panel.rows):
            axis = grid[row][column]
            heights = [100 * bar.share for bar in bars]
            axis.bar(
                range(len(bars)), heights, width=1.0, align="edge", color=colours.CHECKPOINTS["light"][name], ec="w"
            )
            axis.text(0.99, 0.92, f"{label}: mean {mean}", transform=axis.transAxes, ha="right", va="top")
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_ylabel("% of tokens" if column == 0 else "")
            axis.margins(y=0.35)
        grid[0][column].set_title(f"{panel.title} ({panel.num_tokens:,})")
        grid[-1][column].set_xticks(range(len(labels)), labels)
        grid[-1][column].set_xlabel("token entropy in nats (bins 1-2-5 per decade, the last one open)")
    return figure


def heat_figure(heat: HeatMap, title: str, unit: str) -> Any:
    """A heat map: a row per layer, a column per module; numbers where they fit."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    num_layers, kinds = len(heat.values), heat.columns[: len(heat.values[0])]
    height = min(11.0, 1.6 + (0.14 if heat.dense else 0.32) * num_layers)
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axis = figure.subplots()
    colour_map = LinearSegmentedColormap.from_list("heat", colours.HEAT["light"]).with_extremes(bad="white")
    values = [[float("nan") if value is None else 100 * value for value in row] for row in heat.values]
    image = axis.imshow(values, cmap=colour_map, vmin=0.0, aspect="auto", interpolation="nearest")
    axis.set_xticks(range(len(kinds)), kinds)
    axis.set_yticks(range(0, num_layers, 5 if heat.dense else 1))
    axis.set(title=title, ylabel="layer")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if not heat.dense:
        shades = colours.ramp(colours.HEAT["light"])
        for layer, (_, cells) in enumerate(heat.rows[:num_layers]):
            for column, cell in enumerate(cells[: len(kinds)]):
                if cell.step is not None:
                    ink = colours.ink(shades[cell.step])
                    axis.text(column, layer, cell.text, ha="center", va="center", color=ink, fontsize=9)
    figure.colorbar(image, ax=axis, label=unit)
    return figure
