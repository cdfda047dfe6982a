"""The one table of an evaluation: `eval`, the end of a run and `compare` print it, 80 columns wide at most."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.text import Text

from orchestrator.bootstrap import Interval
from orchestrator.compare import Arm, change, check_same_sets
from orchestrator.evaluation import SetResult
from orchestrator.task_sets import KINDS

WIDTH = 80
LABEL = 18
WIDTHS = (15, 15, 15, 8, 9)
"""Columns of greedy, pass@1, pass@k, signal and entropy; with `LABEL` they fill `WIDTH`."""
MEASURES = ("greedy", "pass@1", "pass@k", "signal", "entropy")
CUT = 0.05
"""Share of sampled episodes cut by a limit from which on the table says so."""

LEGEND = (
    "Means over tasks ± standard errors, below them 95 % intervals (docs/metrics.md). greedy: tasks solved without "
    "sampling. pass@k: chance that one of k samples solves a task. signal: share of tasks that some, but not all, of "
    "their samples solve (others teach GRPO nothing). entropy: nats per sampled token. area: mean height of the curve "
    "over training."
)


def table(arms: Sequence[Arm], title: str = "") -> Text:
    """Every set, and on each every arm: before and after RL and the gain, or the one result of a checkpoint.

    Raises:
        ConfigError: the arms were not evaluated on the same task sets.
    """
    check_same_sets(arms)
    sets = arms[0].evaluations[0].sets
    ks = {s.k for s in sets}
    last = f"pass@{ks.pop()}" if len(ks) == 1 else "pass@k"
    text = Text()
    if title:
        text.append(f"{title}\n", "bold")
    text.append(_line("", ["greedy", "pass@1", last, "signal", "entropy"]))
    text.append("─" * WIDTH + "\n", "dim")
    for number, result in enumerate(sets):
        results = [e.by_name(result.name) for arm in arms for e in arm.evaluations]
        shown = next((r for r in results if r.measured), result)
        text.append("\n" if number else "")
        text.append(_wrapped(heading(shown) + (f", pass@{shown.k}" if last == "pass@k" else "")), "bold")
        for arm in arms:
            text.append_text(_rows(arm, result.name))
    text.rstrip()
    return text


def heading(result: SetResult) -> str:
    """What a set is: `ood: out of distribution, 200 tasks, 60 of them sampled 8 times`."""
    if not result.measured:
        return f"{result.name}: {KINDS[result.kind]}"
    tasks, sampled = len(result.greedy), len(result.correct)
    which = "each" if sampled == tasks else f"{sampled} of them"
    return f"{result.name}: {KINDS[result.kind]}, {tasks} tasks, {which} sampled {result.samples} times"


def _rows(arm: Arm, set_name: str) -> Text:
    """The lines of one arm on one set."""
    text, results = Text(), arm.on(set_name)
    changes = [change(results, measure) for measure in MEASURES] if results else []
    if len(arm.evaluations) == 1:
        text.append_text(_levels(arm.name, [c.after for c in changes]) if changes else Text(_wrapped(arm.name)))
    else:
        text.append(_wrapped(arm.name))
        if results and results[0][0] == arm.evaluations[0].step:
            text.append_text(_levels("  before RL", [c.before for c in changes]))
        if results and results[-1][0] == arm.evaluations[-1].step:
            text.append_text(_levels("  after RL", [c.after for c in changes]))
        if len(results) > 1:
            text.append_text(_levels("  gain", [c.gain for c in changes], sign="+"))
            area = [c.area for c in changes]
            text.append(_line("  area", [*map(share, area[:-1]), f"{area[-1]:.3f}"]))
    for note in notes(arm, set_name):
        text.append(_wrapped(f"  {note}"), "yellow")
    return text


def _levels(label: str, found: Sequence[Interval], sign: str = "") -> Text:
    """A line of means with standard errors, and below them their intervals."""
    *judged, signal, entropy = found
    cells = [f"{share(f.mean, sign)} ±{share(f.error)}" for f in judged]
    text = Text()
    if len(label) > LABEL:
        text.append(_wrapped(label))
        label = ""
    text.append(_line(label, [*cells, share(signal.mean, sign), f"{entropy.mean:{sign}.3f}"]))
    text.append(_line("", [f"[{share(f.low, sign)}, {share(f.high, sign)}]" for f in judged]), "dim")
    return text


def notes(arm: Arm, set_name: str) -> list[str]:
    """What to know about the results that are shown of an arm on a set; once where before and after RL agree."""
    shown = [e.by_name(set_name) for e in (arm.evaluations[0], arm.evaluations[-1])]
    before, after = (warnings(result) for result in shown)
    return [
        *(note for note in before if note in after),
        *(f"before RL: {note}" for note in before if note not in after),
        *(f"after RL: {note}" for note in after if note not in before),
    ]


def warnings(result: SetResult) -> list[str]:
    """It could not be measured, episodes failed, or many were cut."""
    if not result.measured:
        return [f"not measured: {result.error}"]
    found = []
    if result.failed:
        episodes = len(result.greedy) + len(result.correct) * result.samples
        first = f", the first one as {result.error}" if result.error else ""
        found.append(f"{result.failed} of {episodes} episodes failed and count as unsolved{first}")
    if result.truncated > CUT:
        limits = "max_tokens, max_model_len or turns"
        found.append(f"{result.truncated:.0%} of the sampled episodes were cut by a limit ({limits})")
    return found


def share(value: float, sign: str = "") -> str:
    """A number between -1 and 1, without the zero before its point: `.425`, `+.110`, `1.000`."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1)


def _line(label: str, cells: Sequence[str]) -> str:
    cells = [f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=False)]
    return f"{label:<{LABEL}}{''.join(cells)}".rstrip() + "\n"


def _wrapped(line: str) -> str:
    """A line of any length, broken between words (within a word that is too long); nothing of an empty one."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return "".join(f"{part}\n" for part in textwrap.wrap(line, WIDTH, subsequent_indent=indent))
