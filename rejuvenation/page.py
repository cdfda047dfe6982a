"""The report as one HTML page for a person who has to decide: nothing outside it is needed, no script, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rejuvenation import charts, choice_table, colours, marked_tokens
from rejuvenation.diagnostics.token_entropy import HIGH_ENTROPY
from rejuvenation.heat_maps import drift_map, reset_map
from rejuvenation.report import Report
from rejuvenation.verdict import nats, percent, verdict

PAGE_FILE = "report.html"
FIGURES = "report_figures"
TEMPLATES = Path(__file__).parent / "templates"
STAGES = {
    "answers": "answering the prompts greedily",
    "choice": "trying candidates for alpha and rho",
    "load": "reading the SFT model into memory",
    "entropy": "token entropies of the four checkpoints",
    "plasticity": "sharpness, rollouts and gradients",
    "attribution": "scoring every neuron at the target tokens",
    "statistics": "measuring whole tensors, where a fusion has to",
    "write": "fusing, measuring drift, writing, hashing",
}
"""What the stages of `Report.seconds` do."""
SUFFIXES = tuple(charts.CHECKPOINTS)


def write_page(report: Report, directory: Path) -> None:
    """Write report.html into a checkpoint directory, and its figures as PNG into a folder beside it.

    PNG files are drawn only where something was measured: matplotlib takes longer to import than many a fusion.
    """
    files: list[str] = []
    if report.entropy_histograms is not None:
        from rejuvenation.figures import write_figures

        files = write_figures(report, directory / FIGURES)
    (directory / PAGE_FILE).write_text(render(report, files), encoding="utf-8")


def render(report: Report, files: list[str] | None = None) -> str:
    """The page as HTML. Texts of tokens and names are escaped: they come from files that anyone may have made.

    Args:
        report: what is shown.
        files: names of the figures beside the page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(nats=nats, percent=percent)
    return environment.get_template("report.html.jinja").render(
        report=report,
        names={"base": "", "sft": "", **report.checkpoints},
        verdict=verdict(report),
        tiles=tiles(report),
        trials=(choice_table.header(report.choice), choice_table.rows(report.choice)) if report.choice else None,
        legend=choice_table.LEGEND,
        panels=charts.panels(report),
        axis_labels=charts.axis_labels(report.entropy_histograms) if report.entropy_histograms else [],
        drift=drift_map(report),
        other_drift={name: value for name, value in report.drift.items() if name not in report.drift_by_module},
        reset=reset_map(report),
        excerpts=[(excerpt, marked_tokens.tokens(excerpt)) for excerpt in report.excerpts],
        token_edges=marked_tokens.EDGES,
        plasticity=by_checkpoint(report.plasticity or {}),
        checkpoints=charts.CHECKPOINTS,
        stages=stages(report.seconds),
        palettes=palettes(),
        figures=[f"{FIGURES}/{name}" for name in files or []],
    )


def tiles(report: Report) -> list[tuple[str, str, str]]:
    """The key numbers: label, value, explanation."""
    found = []
    for label, means in (
        ("Entropy at target tokens", report.entropy_at_targets),
        ("Entropy of all response tokens", report.entropy_on_responses),
    ):
        if means is not None:
            detail = f"nats; base {nats(means.base)}, fusion alone {nats(means.fused)}"
            found.append((label, f"{nats(means.sft)} → {nats(means.rejuvenated)}", detail))
    if report.entropy_histograms is not None:
        shares = {name: percent(charts.above(report, HIGH_ENTROPY, name)) for name in charts.CHECKPOINTS}
        detail = f"entropy above {HIGH_ENTROPY:g} nats; base {shares['base']}"
        found.append(("Undecided tokens", f"{shares['sft']} → {shares['rejuvenated']}", detail))
    if report.num_reset:
        detail = f"{report.num_reset:,} of {report.num_neurons:,}"
        found.append(("Neurons reset", percent(report.effective_ratio), detail))
    if "all" in report.drift:
        groups = {name: value for name, value in report.drift.items() if name != "all"}
        most = max(groups, key=lambda name: groups[name])
        detail = f"of base's norm; most in {most} ({percent(groups[most])})"
        found.append(("Weights moved by SFT", percent(report.drift["all"]), detail))
    detail = f"{report.num_pairs:,} calibration pairs" if report.num_pairs else "nothing was scored"
    found.append(("Time", duration(report.seconds["all"]), detail))
    return found


def by_checkpoint(values: dict[str, float]) -> list[tuple[str, dict[str, float]]]:
    """Numbers whose names end with a checkpoint's, as rows: what is measured, and its value by checkpoint.

    A name without such an end is a row with its value under "".
    """
    rows: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        measure, _, checkpoint = name.rpartition("_")
        if checkpoint not in SUFFIXES:
            measure, checkpoint = name, ""
        rows.setdefault(measure, {})[checkpoint] = value
    return [(measure.replace("_", " "), by_name) for measure, by_name in rows.items()]


def stages(seconds: dict[str, float]) -> list[tuple[str, str, float]]:
    """Meaning, time and percent of the whole of each stage; what no stage counts comes last."""
    whole = seconds["all"]
    parts = {STAGES.get(name, name): value for name, value in seconds.items() if name != "all"}
    parts["start-up, checks and calibration texts"] = max(0.0, whole - sum(parts.values()))
    return [(name, duration(value), 100 * value / whole if whole else 0.0) for name, value in parts.items()]


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    if seconds >= 100:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"


def palettes() -> list[tuple[str, dict[str, list[tuple[str, str]]], dict[str, str]]]:
    """Light and dark: the shades of each ramp with their ink, and the checkpoints' colours."""
    ramps: dict[str, dict[str, Any]] = {"heat": colours.HEAT, "entropy": colours.ENTROPY}
    return [
        (
            mode,
            {
                name: [(shade, colours.ink(shade)) for shade in colours.ramp(modes[mode])]
                for name, modes in ramps.items()
            },
            colours.CHECKPOINTS[mode],
        )
        for mode in ("light", "dark")
    ]
