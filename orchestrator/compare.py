"""`rejuvenate compare RUN RUN ...`: what changed in runs, on which task sets, and the plot of curves."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.near_path import did_you_mean
from orchestrator.bootstrap import Interval
from orchestrator.evaluation import Evaluation, SetResult, mean, read, read_all
from orchestrator.intervals import paired
from orchestrator.loggers import read_metrics

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
"""Okabe and Ito's palette: distinguishable with colour-blindness too."""
PATH = re.compile(r"(/|~/|\.\.?/).*|\w+://\S+|[^\s:]+/[^\s:]*")
"""`/data/x.jsonl`, `~/x.jsonl`, `../x.jsonl`, `data/x.jsonl`, `http://host/v1`; not `hf:owner/name` or prose."""
ABSENT = "not given"
LONGEST_STEM = 100
"""Characters of the plot's name, without its number."""
MOST_COLUMNS = 3
"""Panels of a plot side by side; more go into the next row."""
PANEL = (4.2, 3.4)
"""Inches of one panel."""
LABELS_IN_A_ROW = 40
"""Characters that fit below a panel side by side; longer names are tilted."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One run in a comparison."""

    name: str
    evaluations: list[Evaluation]
    metrics: list[dict]

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> Arm:
        """Read a run directory, or the results that `rejuvenate eval --out` wrote.

        Raises:
            ConfigError: it does not exist, or holds no evaluation.
        """
        if not path.exists():
            rule = "must be an existing run directory, or a file of `rejuvenate eval --out`"
            raise ConfigError("RUN", rule, str(path), did_you_mean(path, "Check the path."))
        try:
            evaluations = [read(path)] if path.is_file() else read_all(path) if path.is_dir() else []
        except (ValueError, KeyError, TypeError):  # no JSON, or of something else
            evaluations = []
        if not evaluations:
            rule = "must be a run directory with at least one evaluation, or a file of `rejuvenate eval --out`"
            raise ConfigError("RUN", rule, str(path), "Check the path.")
        if path.is_file():
            return cls(name or path.stem, evaluations, [])
        return cls(name or path.name, evaluations, read_metrics(path))

    def on(self, set_name: str) -> list[tuple[int, SetResult]]:
        """(training step, result) on one set, where it could be measured."""
        found = [(e.step, e.by_name(set_name)) for e in self.evaluations]
        return [(step, result) for step, result in found if result.measured]


@dataclass(frozen=True, slots=True)
class Change:
    """One measure of an arm on a set: before RL, after, the gain (with 95 % intervals), the area under its curve."""

    before: Interval
    after: Interval
    gain: Interval
    """Its interval is paired: before and after are of the same tasks."""
    area: float


def change(results: Sequence[tuple[int, SetResult]], measure: str) -> Change:
    """How a measure changed from the first to the last result.

    Args:
        results: (training step, result) on one set, as `Arm.on` gives them; at least one.
        measure: as `SetResult.per_task` takes it, or `entropy`, whose intervals have no width: no spread over tasks is
            kept.
    """
    steps = [step for step, _ in results]
    first, last = results[0][1], results[-1][1]
    if measure == "entropy":
        values = [r.entropy for _, r in results]
        before, after, gain = (Interval(v, v, v, 0.0) for v in (values[0], values[-1], values[-1] - values[0]))
        return Change(before, after, gain, area(steps, values))
    gains = [b - a for a, b in zip(first.per_task(measure), last.per_task(measure), strict=True)]
    heights = [mean(r.per_task(measure)) for _, r in results]
    return Change(first.interval(measure), last.interval(measure), paired(gains), area(steps, heights))


def area(steps: Sequence[int], values: Sequence[float]) -> float:
    """Area under the curve over training steps (trapezoids), divided by the number of steps: a mean height."""
    if steps[-1] == steps[0]:
        return values[-1]
    pieces = [(b - a) * (u + v) / 2 for a, b, u, v in zip(steps, steps[1:], values, values[1:], strict=False)]
    return sum(pieces) / (steps[-1] - steps[0])


def read_arms(paths: Sequence[Path]) -> list[Arm]:
    """Read several arms; where names are equal, as much of the folders above as tells them apart goes before them.

    Raises:
        ConfigError: as `Arm.read`.
    """
    arms = [Arm.read(path) for path in paths]
    places = [Path(os.path.abspath(path)) for path in paths]
    parts = [(*p.parent.parts, p.stem if p.is_file() else p.name) for p in places]
    lengths = [1] * len(arms)
    for _ in range(max(map(len, parts), default=0)):
        names = ["/".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
        rivals = [
            {place for place, other in zip(places, names, strict=True) if other == name} - {own}
            for own, name in zip(places, names, strict=True)
        ]
        lengths = [length + bool(others) for length, others in zip(lengths, rivals, strict=True)]
    return [replace(arm, name="/".join(p[-length:])) for arm, p, length in zip(arms, parts, lengths, strict=True)]


def check_same_sets(arms: Sequence[Arm]) -> None:
    """Raise `ConfigError` at the first arm whose task sets, or how they were measured, are not those of the first."""
    first = arms[0].evaluations[0].sets
    for arm in arms:
        for evaluation in arm.evaluations:
            if [s.name for s in evaluation.sets] != [s.name for s in first]:
                raise ConfigError(
                    "RUN",
                    f"must be evaluated on the same task sets as {arms[0].name} ({names_of(first)})",
                    f"{arm.name} ({names_of(evaluation.sets)})",
                    "Compare runs of one evaluation section or suite.",
                )
            for result, reference in zip(evaluation.sets, first, strict=True):
                ours, theirs = traits(result), traits(reference)
                for trait in sorted(ours.keys() & theirs.keys()):
                    if ours[trait] != theirs[trait]:
                        where, our, their = difference(trait, ours[trait], theirs[trait])
                        rule = f"must have the {where} of {arms[0].name} on the set {result.name} ({their!r})"
                        fix = "Compare runs of one evaluation section or suite."
                        raise ConfigError("RUN", rule, f"{arm.name}: {our!r}", fix)


def traits(result: SetResult) -> dict[str, object]:
    """What must be equal where results are compared, as far as it is known.

    With the environment's id, keyword arguments (the seed of its tasks among them) and wrappers the tasks are the same.
    The run's own seed draws samples and no tasks: runs with several seeds are compared.
    """
    found: dict[str, object] = {"kind": result.kind, "k": result.k, "samples": result.samples}
    if result.measured:
        found |= {"tasks": len(result.greedy), "sampled_tasks": len(result.correct)}
    if result.setting:
        found |= {name: result.setting[name] for name in ("temperature", "max_tokens") if name in result.setting}
        environment = result.setting.get("environment", {})
        if "id" in environment:
            found["environment"] = environment["id"]
        found |= {name: wherever_it_lies(environment[name]) for name in ("kwargs", "wrappers") if name in environment}
    return found


def wherever_it_lies(value: Any) -> Any:
    """A setting without what differs between machines: of a path or an address, the last part counts."""
    if isinstance(value, Mapping):
        return {str(key): wherever_it_lies(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [wherever_it_lies(item) for item in value]
    if isinstance(value, str) and PATH.fullmatch(value):
        return value.rstrip("/").rpartition("/")[2]
    return value


def difference(name: str, ours: Any, theirs: Any) -> tuple[str, Any, Any]:
    """Where two unequal settings first differ, and what is there: (`kwargs.split`, "ood", "heldout")."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        key = next(k for k in sorted(ours.keys() | theirs.keys()) if ours.get(k, ABSENT) != theirs.get(k, ABSENT))
        return difference(f"{name}.{key}", ours.get(key, ABSENT), theirs.get(key, ABSENT))
    return name, ours, theirs


def names_of(sets: Sequence[SetResult]) -> str:
    """Names of task sets for people."""
    return ", ".join(s.name for s in sets) or "none"


def free_name(arms: Sequence[Arm]) -> Path:
    """The plot's name where none is given: of what it compares, with a number where one of that name exists."""
    stem = "-".join(["compare", *(arm.name.replace("/", "-") for arm in arms if arm.name)])[:LONGEST_STEM]
    names = itertools.chain([f"{stem}.png"], (f"{stem}-{n}.png" for n in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


def has_curves(arms: Sequence[Arm]) -> bool:
    """Whether any arm was evaluated more than once, so that there is a curve to draw."""
    return any(len(arm.evaluations) > 1 for arm in arms)


def plot(arms: Sequence[Arm], output: Path, title: str = "") -> None:
    """Write greedy accuracy per task set with its 95 % interval as PNG, and the policy's entropy where it is known.

    Runs give curves over training steps; where every arm was evaluated once, each gives a point.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [s.name for s in arms[0].evaluations[0].sets]
    entropies = [[(m["step"], m["rollout_entropy"]) for m in arm.metrics if "rollout_entropy" in m] for arm in arms]
    panels = len(names) + any(entropies)
    rows = math.ceil(max(1, panels) / MOST_COLUMNS)
    columns = math.ceil(max(1, panels) / rows)
    size = (PANEL[0] * columns, PANEL[1] * rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    axes = list(grid.flat)
    for axis in axes[panels:]:
        axis.set_axis_off()
    curves = has_curves(arms)
    for axis, name in zip(axes, names, strict=False):
        _draw_set(axis, arms, name, curves)
    if any(entropies):
        axis = axes[len(names)]
        for arm, color, points in zip(arms, itertools.cycle(COLORS), entropies, strict=False):
            axis.plot([s for s, _ in points], [h for _, h in points], color=color, label=arm.name)
        axis.set(title="entropy of rollouts (nats per token)", xlabel="training step", ylim=(0, None))
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    if curves and handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    if title:
        figure.suptitle(title)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
    pyplot.close(figure)


def _draw_set(axis: Any, arms: Sequence[Arm], name: str, curves: bool) -> None:
    """Greedy accuracy of every arm on a set: its curve and the band of its intervals, or a point with an error bar."""
    for place, (arm, color) in enumerate(zip(arms, itertools.cycle(COLORS), strict=False)):
        results = arm.on(name)
        bands = [result.interval("greedy") for _, result in results]
        means, low, high = [b.mean for b in bands], [b.low for b in bands], [b.high for b in bands]
        steps = [step for step, _ in results] if curves else [place] * len(results)
        axis.plot(
            steps, means, marker="o", markersize=3 if len(steps) > 1 else 6, color=color, label=arm.name, clip_on=False
        )
        if len(steps) > 1:
            axis.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        else:
            axis.vlines(steps, low, high, color=color, linewidth=1.5)
    axis.set(title=f"greedy accuracy, {name}", ylim=(0, 1))
    axis.grid(alpha=0.25)
    if curves:
        axis.set_xlabel("training step")
        return
    tilted = len(arms) * max(len(arm.name) for arm in arms) > LABELS_IN_A_ROW
    axis.set_xlim(-0.5, len(arms) - 0.5)
    axis.set_xticks(range(len(arms)), [arm.name for arm in arms])
    axis.tick_params("x", rotation=30 if tilted else 0)
    if tilted:
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
