"""What a person sees of a run: one line per stage, updated in place on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

INDENT = 2  # columns, of the further lines of a sentence
LINES_OFF_TERMINAL = 5  # lines per counted stage where nothing can be updated in place


class Console:
    """Progress of a run.

    Args:
        rich: where to write; by default the standard error output, so that a command's result can be piped.
        label: put before every stage (which arm of a comparison this is).
    """

    def __init__(self, rich: RichConsole | None = None, label: str = "") -> None:
        self.rich = rich or RichConsole(stderr=True, highlight=False)
        self.label = f"{label} · " if label else ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._name = ""
        self._total = 0
        self._at = 0
        self._started = 0.0

    def say(self, text: str, aside: str = "") -> None:
        """Print a line as it is: no markup is looked for in it, and paths are not broken.

        Args:
            text: the line.
            aside: put after it, dimmed.
        """
        self.rich.print(Text.assemble(self.label, text, (f" {aside}" if aside else "", "dim")), soft_wrap=True)

    def explain(self, text: str) -> None:
        """Print a sentence, wrapped between words and indented from its second line on."""
        width = max(2 * INDENT, self.rich.width)
        lines = textwrap.wrap(
            f"{self.label}{text}", width, subsequent_indent=" " * INDENT, break_long_words=False, break_on_hyphens=False
        )
        self.rich.print(Text("\n".join(lines)), soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a stage that takes a while: a spinner on a terminal, and one line with its time when it is over."""
        start = time.monotonic()
        if self.rich.is_terminal:
            with self.rich.status(Text(f"{self.label}{name} ...")):
                yield
        else:
            yield
        self.say(name, f"({time.monotonic() - start:.0f} s)")

    def begin(self, name: str, total: int, at: int = 0) -> None:
        """Begin a counted stage."""
        self._name, self._total, self._at, self._started = name, total, at, time.monotonic()
        if self.rich.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=12),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[figures]}", style="dim", markup=False),
                console=self.rich,
            )
            self._progress.start()
            self._task = self._progress.add_task(f"{self.label}{name}", total=total, completed=at, figures="")

    def advance(self, figures: Mapping[str, float]) -> None:
        """One more step of the counted stage, with figures to show."""
        self._at += 1
        shown = summary(figures)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._at, figures=shown)
        elif self._at == self._total or self._at % max(1, self._total // LINES_OFF_TERMINAL) == 0:
            self.say(f"{self._name} {self._at}/{self._total} {shown}")

    def end(self) -> None:
        """End the counted stage."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def diagnosis(report: Mapping[str, Any]) -> list[str]:
    """What a rejuvenation found and did, in three lines."""
    lines = []
    entropy = report.get("entropy_on_responses")
    if entropy:
        lines.append(
            "diagnosis: entropy on calibration answers (nats per token): "
            f"base {entropy['base']:.3f}, sft {entropy['sft']:.3f}, fused {entropy['fused']:.3f}, "
            f"rejuvenated {entropy['rejuvenated']:.3f}"
        )
    drift = {name: value for name, value in report["drift"].items() if name != "all"}
    most = max(drift, key=lambda name: drift[name])
    lines.append(
        f"weights moved from base by {report['drift']['all']:.0%} of their norm, most in {most} ({drift[most]:.0%})"
    )
    if report["num_reset"]:
        lines.append(
            f"reset {report['num_reset']:,} of {report['num_neurons']:,} neurons ({report['effective_ratio']:.1%}), "
            f"{', '.join(report['steps'])}, alpha {report['alpha']:g}"
        )
    else:
        lines.append(f"{', '.join(report['steps'])}, alpha {report['alpha']:g}; no neuron reset")
    return lines


def summary(figures: Mapping[str, float]) -> str:
    """The figures worth a line: reward, share of groups without signal, entropy, failures if any (SFT: the loss)."""
    if "reward" not in figures:
        return f"loss {figures.get('loss', 0.0):.4f}"
    failed = figures.get("failed_episodes", 0)
    return (
        f"reward {figures['reward']:.2f} no signal {figures['groups_without_signal']:.0%} "
        f"entropy {figures['rollout_entropy']:.3f}" + (f" failed {failed:.0f}" if failed else "")
    )
