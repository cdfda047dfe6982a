"""A ladder of checkpoints side by side: one row per diagnostic, one column per checkpoint, the base first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rejuvenation.diagnostics.measures import Measures
from rejuvenation.diagnostics.sharpness import Sharpness

if TYPE_CHECKING:
    from rich.table import Table

    from rejuvenation.diagnosis import Diagnosis

PER_TABLE = 3
"""SFT checkpoints per table."""
BASE = "base"
"""Heading of the base's column."""
UNMEASURED = "-"
CONVERGED_ENOUGH = 0.1
"""Relative residual above which an eigenvalue is shown as a lower bound."""

Cell = Callable[[Measures], str | None]


def show(diagnoses: Sequence[Diagnosis], graded_by: str) -> None:
    """Print a ladder: the tables, one sentence per checkpoint, and what was left out.

    Args:
        diagnoses: of one base.
        graded_by: how answers were graded.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    for part in tables(diagnoses):
        console.print(part, end="\n\n")
    console.print(graded_by)
    for name, diagnosis in zip(names(diagnoses), diagnoses, strict=True):
        console.print(f"{name}: {diagnosis.verdict.sentence}")
    for note in dict.fromkeys(note for diagnosis in diagnoses for note in diagnosis.notes):
        console.print(f"note: {note}")


def tables(diagnoses: Sequence[Diagnosis]) -> list[Table]:
    """The tables of a ladder, of `PER_TABLE` SFT checkpoints each, so that one fits into 80 columns."""
    short = names(diagnoses)
    starts = range(0, len(diagnoses), PER_TABLE)
    return [table(diagnoses[start : start + PER_TABLE], short[start : start + PER_TABLE]) for start in starts]


def table(diagnoses: Sequence[Diagnosis], short: Sequence[str]) -> Table:
    """One table; rows in which nothing was measured are left out.

    Args:
        diagnoses: of one base.
        short: names of their checkpoints.
    """
    from rich.table import Table

    found = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    found.add_column("", no_wrap=True)
    for name in (BASE, *short):
        found.add_column(name, justify="right", overflow="fold")
    for label, cells in rows(diagnoses):
        if any(cell != UNMEASURED for cell in cells):
            found.add_row(label, *cells)
    return found


def names(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """Short names of the checkpoints: their directories', with as many parents as tell them apart."""
    paths = [Path(diagnosis.checkpoint).resolve().parts for diagnosis in diagnoses]
    for depth in range(1, max(map(len, paths)) + 1):
        short = ["/".join(parts[-depth:]) for parts in paths]
        if len({*short, BASE}) > len(short):
            break
    return short


def rows(diagnoses: Sequence[Diagnosis]) -> list[tuple[str, list[str]]]:
    """Label and cells of every row."""
    columns = [diagnoses[0].base, *(diagnosis.sft for diagnosis in diagnoses)]
    found = [(label, [cell(column) or UNMEASURED for column in columns]) for label, cell in _of_models(columns)]

    def of_weights(label: str, base: str, cells: list[str]) -> None:
        found.append((label, [base, *cells]))

    of_weights("drift, all weights", UNMEASURED, [_all(diagnosis.drift, ".1%") for diagnosis in diagnoses])
    of_weights("  group that moved most", UNMEASURED, [_most(diagnosis.drift)[0] for diagnosis in diagnoses])
    of_weights("  its drift", UNMEASURED, [_most(diagnosis.drift)[1] for diagnosis in diagnoses])
    of_weights("changed in bf16", UNMEASURED, [_all(diagnosis.changed, ".1%") for diagnosis in diagnoses])
    of_weights(
        "effective rank, weights",
        _all(diagnoses[0].rank_base, ".1%"),
        [_all(diagnosis.rank_sft, ".1%") for diagnosis in diagnoses],
    )
    of_weights("  of sft - base", UNMEASURED, [_all(diagnosis.rank_delta, ".1%") for diagnosis in diagnoses])
    return found


def _of_models(columns: Sequence[Measures]) -> list[tuple[str, Cell]]:
    """Rows of what is measured by running a model; each cell gives None where it was not."""
    passes = next((column.passes for column in columns if column.passes), None)
    k, group_size = (passes.k, passes.group_size) if passes else (0, 0)
    return [
        ("entropy on responses, nats", lambda m: m.entropy and f"{m.entropy.mean:.3f}"),
        ("  tokens above 0.5", lambda m: m.entropy and f"{m.entropy.high_share:.1%}"),
        ("loss on responses, nats", lambda m: None if m.loss is None else f"{m.loss:.3f}"),
        ("rollout entropy, nats", lambda m: m.rollout_entropy and f"{m.rollout_entropy.mean:.3f}"),
        ("  tokens above 0.5", lambda m: m.rollout_entropy and f"{m.rollout_entropy.high_share:.1%}"),
        ("  mean of the top fifth", lambda m: m.rollout_entropy and f"{m.rollout_entropy.top_mean:.3f}"),
        ("  tokens per rollout", lambda m: None if m.response_length is None else f"{m.response_length:.1f}"),
        ("  cut by the limit", lambda m: None if m.unfinished is None else f"{m.unfinished:.1%}"),
        ("pass@1", lambda m: m.passes and _pm(m.passes.pass_at_1, m.passes.pass_at_1_error)),
        (f"pass@{k}", lambda m: m.passes and _pm(m.passes.pass_at_k, m.passes.pass_at_k_error)),
        (f"pass@{k} - pass@1", lambda m: m.passes and _pm(m.passes.gain, m.passes.gain_error)),
        ("  share of failures", lambda m: m.passes and f"{m.passes.recovered:.1%}"),
        (
            f"groups of {group_size} with a signal",
            lambda m: m.passes and _pm(m.passes.signal_share, m.passes.signal_share_error),
        ),
        ("gradient signal-to-noise", lambda m: m.gradient and f"{m.gradient.snr:.3g}"),
        ("  cosine of the halves", lambda m: m.gradient and f"{m.gradient.cosine:.3f}"),
        *_of_sharpness("text", lambda m: m.sharpness_on_text, columns),
        *_of_sharpness("rollouts", lambda m: m.sharpness_on_rollouts, columns),
        ("seconds", lambda m: f"{sum(m.seconds.values()):.1f}" if m.seconds else None),
    ]


def _of_sharpness(
    where: str, of: Callable[[Measures], Sharpness | None], columns: Sequence[Measures]
) -> list[tuple[str, Cell]]:
    measured = next((sharp for column in columns if (sharp := of(column))), None)
    if measured is None:
        return []

    def cell(show: Callable[[Sharpness], str]) -> Cell:
        return lambda m: None if (sharp := of(m)) is None else show(sharp)

    def rise(place: int) -> Cell:
        return cell(lambda s: f"{s.loss_increases[place]:+.2g}")

    return [
        (f"Hessian on {where}: largest", cell(_eigenvalue)),
        ("  trace", cell(lambda s: f"{_figures(s.trace)}±{_figures(s.trace_error)}")),
        *((f"  loss rise, {size:.0%} noise", rise(place)) for place, size in enumerate(measured.perturbations)),
    ]


def _eigenvalue(sharp: Sharpness) -> str:
    return f"{'≥ ' if sharp.eigenvalue_residual > CONVERGED_ENOUGH else ''}{_figures(sharp.eigenvalue)}"


def _pm(share: float, error: float) -> str:
    return f"{share:.1%}±{error:.1%}"


def _all(groups: dict[str, float] | None, form: str) -> str:
    return format(groups["all"], form) if groups and "all" in groups else UNMEASURED


def _figures(number: float) -> str:
    """About three digits, without an exponent where the number is large."""
    return f"{number:.0f}" if 100.0 <= abs(number) < 1e7 else f"{number:.2g}"


def _most(groups: dict[str, float] | None) -> tuple[str, str]:
    """The group that moved most, and by how much."""
    single = {name: value for name, value in (groups or {}).items() if name != "all" and value}
    if not single:
        return UNMEASURED, UNMEASURED
    most = max(single, key=lambda name: single[name])
    return most, f"{single[most]:.1%}"
