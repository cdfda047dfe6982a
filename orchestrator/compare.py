"""`rejuvenate compare RUN RUN ...`: the table and the plot of curves over run directories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from configs.errors import ConfigError
from orchestrator.evaluation import Evaluation, SetResult, mean, pass_at_k, read_all, standard_error
from orchestrator.loggers import read_metrics

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
"""Okabe and Ito's palette: distinguishable with colour-blindness too."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One run in a comparison."""

    name: str
    evaluations: list[Evaluation]
    metrics: list[dict]

    @classmethod
    def read(cls, run_dir: Path, name: str | None = None) -> Arm:
        """Read a run directory.

        Raises:
            ConfigError: it holds no evaluation.
        """
        evaluations = read_all(run_dir) if run_dir.is_dir() else []
        if not evaluations:
            raise ConfigError(
                "RUN", "must be a run directory with at least one evaluation", str(run_dir), "Check the path."
            )
        return cls(name or run_dir.name, evaluations, read_metrics(run_dir))


@dataclass(frozen=True, slots=True)
class Change:
    """One measure of an arm on a set: before RL, after, the gain, and the area under its curve."""

    before: float
    before_se: float
    after: float
    after_se: float
    gain: float
    gain_se: float
    area: float


def per_task(result: SetResult, measure: str) -> list[float]:
    """[tasks] values whose mean is the measure: `greedy`, `pass@k` or `signal`."""
    if measure == "greedy":
        return result.greedy
    if measure == "pass@k":
        return [pass_at_k(result.samples, c, result.k) for c in result.correct]
    assert measure == "signal", measure
    return [float(0 < c < result.samples) for c in result.correct]


def change(evaluations: Sequence[Evaluation], set_name: str, measure: str) -> Change:
    """Before, after and gain with standard errors over tasks (the gain's is paired), and the normalised area."""
    results = [e.by_name(set_name) for e in evaluations]
    if measure == "entropy":  # one figure per evaluation: no spread over tasks is kept
        values = [r.entropy for r in results]
        return Change(values[0], 0.0, values[-1], 0.0, values[-1] - values[0], 0.0, area(evaluations, values))
    rows = [per_task(r, measure) for r in results]
    gains = [b - a for a, b in zip(rows[0], rows[-1], strict=True)]
    return Change(
        mean(rows[0]),
        standard_error(rows[0]),
        mean(rows[-1]),
        standard_error(rows[-1]),
        mean(gains),
        standard_error(gains),
        area(evaluations, [mean(row) for row in rows]),
    )


def area(evaluations: Sequence[Evaluation], values: Sequence[float]) -> float:
    """Area under the curve over training steps (trapezoids), divided by the number of steps: a mean height."""
    steps = [e.step for e in evaluations]
    if steps[-1] == steps[0]:
        return values[-1]
    pieces = [(b - a) * (u + v) / 2 for a, b, u, v in zip(steps, steps[1:], values, values[1:], strict=False)]
    return sum(pieces) / (steps[-1] - steps[0])


def check_same_sets(arms: Sequence[Arm]) -> None:
    """Raise `ConfigError` at the first arm whose task sets are not those of the first."""
    first = [(s.name, len(s.greedy)) for s in arms[0].evaluations[0].sets]
    for arm in arms:
        for evaluation in arm.evaluations:
            found = [(s.name, len(s.greedy)) for s in evaluation.sets]
            if found != first:
                raise ConfigError(
                    "RUN",
                    f"must be evaluated on the same task sets as {arms[0].name} ({describe_sets(first)})",
                    f"{arm.name} ({describe_sets(found)})",
                    "Compare runs of one task and one evaluation section.",
                )


def describe_sets(sets: Sequence[tuple[str, int]]) -> str:
    """Names and sizes of task sets for people."""
    return ", ".join(f"{name}: {tasks} tasks" for name, tasks in sets) or "none"


def tables(arms: Sequence[Arm], title: str = "") -> list[Table]:
    """One table per task set, 80 columns wide at most.

    Raises:
        ConfigError: the arms were not evaluated on the same task sets.
    """
    check_same_sets(arms)
    found = []
    for result in arms[0].evaluations[0].sets:
        kind = "in distribution" if result.kind == "id" else "out of distribution"
        heading = f"{title + ': ' if title else ''}{result.name} ({kind}, {len(result.greedy)} tasks)"
        table = Table(title=heading, title_justify="left", title_style="bold", pad_edge=False)
        table.add_column("run", overflow="fold", max_width=20)  # the one that gives way: to 11 of 80 columns
        table.add_column("measure", no_wrap=True)
        for column in ("before RL", "after RL", "gain", "area"):
            table.add_column(column, justify="right", no_wrap=True)
        for arm in arms:
            for number, measure in enumerate(("greedy", "pass@k", "signal", "entropy")):
                c = change(arm.evaluations, result.name, measure)
                exact = measure == "entropy"
                table.add_row(
                    arm.name if number == 0 else "",
                    measure.replace("@k", f"@{result.k}"),
                    f"{c.before:.3f}" if exact else f"{c.before:.3f} ± {c.before_se:.3f}",
                    f"{c.after:.3f}" if exact else f"{c.after:.3f} ± {c.after_se:.3f}",
                    f"{c.gain:+.3f}" if exact else f"{c.gain:+.3f} ± {c.gain_se:.3f}",
                    f"{c.area:.3f}",
                    end_section=number == 3,
                )
        found.append(table)
    return found


LEGEND = (
    "± standard error over tasks. signal: share of groups of sampled siblings that differ in reward (others teach GRPO "
    "nothing). entropy: nats per sampled token. area: mean height of the curve over training."
)


def plot(arms: Sequence[Arm], output: Path, title: str = "") -> None:
    """Write the curves as PNG: greedy accuracy per task set with its standard error, and the policy's entropy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [s.name for s in arms[0].evaluations[0].sets]
    columns = len(names) + 1
    figure, grid = pyplot.subplots(1, columns, figsize=(4.2 * columns, 3.4), layout="constrained", squeeze=False)
    axes = grid[0]
    for axis, name in zip(axes, names, strict=False):
        for arm, color in zip(arms, COLORS * len(arms), strict=False):
            steps = [e.step for e in arm.evaluations]
            rows = [e.by_name(name).greedy for e in arm.evaluations]
            centre = [mean(r) for r in rows]
            spread = [standard_error(r) for r in rows]
            axis.plot(steps, centre, marker="o", markersize=3, color=color, label=arm.name)
            low = [c - s for c, s in zip(centre, spread, strict=True)]
            high = [c + s for c, s in zip(centre, spread, strict=True)]
            axis.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        axis.set(title=f"greedy accuracy, {name}", xlabel="training step", ylim=(0, None))
        axis.grid(alpha=0.25)
    for arm, color in zip(arms, COLORS * len(arms), strict=False):
        points = [(m["step"], m["rollout_entropy"]) for m in arm.metrics if "rollout_entropy" in m]
        axes[-1].plot([s for s, _ in points], [h for _, h in points], color=color, label=arm.name)
    axes[-1].set(title="entropy of rollouts (nats per token)", xlabel="training step", ylim=(0, None))
    axes[-1].grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    if title:
        figure.suptitle(title)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
    pyplot.close(figure)
