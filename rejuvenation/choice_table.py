"""The table behind a choice of alpha and rho: cells for the page, lines of at most 80 columns for a terminal."""

from __future__ import annotations

import textwrap

from rejuvenation.choice import Choice, Trial, taken

WIDTH = 80
TAKEN, GOOD_ENOUGH = ">", "+"
LEGEND = f"marks: {TAKEN} taken, {GOOD_ENOUGH} good enough by the rule. size: share of SFT's change that is taken back"


def header(choice: Choice) -> list[str]:
    """Names of the columns."""
    names = ["", "alpha", "rho", "reset", "size", "entropy"]
    if choice.trials[0].pass_at_k is not None:
        names += ["pass@1", f"pass@{choice.k}", "signal", "below best"]
    return names


def rows(choice: Choice) -> list[list[str]]:
    """Cells of every candidate, in the order of trying."""
    winner = taken(choice.trials)
    return [cells(trial, is_taken=trial is winner) for trial in choice.trials]


def cells(trial: Trial, *, is_taken: bool) -> list[str]:
    """One candidate's cells."""
    mark = TAKEN if is_taken else GOOD_ENOUGH if trial.good_enough else ""
    found = [mark, f"{trial.alpha:g}", f"{trial.rho:g}", f"{trial.reset_ratio:.1%}", f"{trial.taken_back:.2f}"]
    found.append(f"{trial.entropy:.3f}")
    if trial.pass_at_k is not None:
        found += [
            f"{trial.pass_at_1:.3f}",
            f"{trial.pass_at_k:.3f}±{trial.pass_at_k_error:.3f}",
            f"{trial.signal_share:.3f}",
            f"{trial.behind:.3f}±{trial.behind_error:.3f}",
        ]
    return found


def lines(choice: Choice) -> list[str]:
    """Decision, table and rule for a terminal."""
    return [*wrapped(f"auto: {choice.sentence}"), *details(choice)]


def details(choice: Choice) -> list[str]:
    """Table and rule for a terminal."""
    table = [header(choice), *rows(choice)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        *("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table),
        *wrapped(LEGEND),
        *wrapped(f"tried on: {choice.judged_by}"),
        *wrapped(f"rule: {choice.rule}"),
    ]


def wrapped(text: str, indent: int = 2) -> list[str]:
    """A sentence in lines of `WIDTH`, indented from the second on; no word is broken."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
