"""The rule of `alpha: auto` and `rho: auto`: which repair to take, from what each candidate can do before any RL.

GRPO learns from a prompt as soon as one of its samples is right, and never while all fail. So candidates are compared
by pass@k, k the size of a group: the share of groups that hold a right answer. RL then trades entropy for reward, and
stops improving where there is none left (Cui et al., The Entropy Mechanism of Reinforcement Learning for Reasoning
Language Models, arXiv 2505.22617). So of the candidates whose pass@k is near the best one's, the one with the most
entropy is taken, or none where the SFT checkpoint as it is cannot be told from the best one (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from configs.auto import AUTO
from configs.rejuvenation import RejuvenationConfig
from rejuvenation.diagnostics.passes import Passes, pass_at_k
from rejuvenation.diagnostics.statistics import mean, standard_error

UNTOUCHED = (1.0, 0.0)
"""Alpha and rho of the SFT checkpoint as it is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured of one candidate."""

    reset_ratio: float
    """Share of all neurons that it resets."""
    entropy: float
    """Nats per token: on its own rollouts, or where nothing can be graded on the calibration responses."""
    solved: list[int] | None = None
    """[prompts] rollouts that solved the prompt, the same prompts for every candidate; None where nothing is graded."""
    failed: int = 0
    """Rollouts whose environment failed; they count as unsolved."""


Measure = Callable[[float, float], Outcome]
"""`(alpha, rho) -> Outcome`."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate: a row of the table behind the choice. Null where nothing could be graded."""

    alpha: float
    rho: float
    reset_ratio: float
    """Share of all neurons that are reset."""
    taken_back: float
    """Size of the repair: share of SFT's change that it takes back, 1 - alpha (1 - reset_ratio)."""
    entropy: float
    """Nats per token."""
    pass_at_1: float | None
    pass_at_k: float | None
    pass_at_k_error: float | None
    """Its standard error over prompts."""
    signal_share: float | None
    """Expected share of groups of k whose rewards differ."""
    behind: float | None
    """pass@k of the best candidate minus this one's."""
    behind_error: float | None
    """Standard error of that difference, prompt by prompt."""
    good_enough: bool
    """Whether the rule could have taken it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What `auto` came to, as it stands in the report."""

    alpha: float
    rho: float
    sentence: str
    """The decision and the figures that carry it, for a person."""
    rule: str
    """How it was made."""
    judged_by: str
    """What candidates were tried on."""
    k: int
    """Of pass@k."""
    trials: list[Trial]
    """Every candidate, in the order of trying."""

    @property
    def needs_no_repair(self) -> bool:
        """Whether the SFT checkpoint stays as it is."""
        return (self.alpha, self.rho) == UNTOUCHED

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Choice:
        """The choice that `to_json` gave these values."""
        return cls(**{**values, "trials": [Trial(**trial) for trial in values["trials"]]})


def choose(
    config: RejuvenationConfig, measure: Measure, *, judged_by: str, base_entropy: float | None = None
) -> Choice:
    """Try candidates and take one: first along alpha without a reset, then along rho at the alpha taken.

    Args:
        config: `alpha`, `rho` or both are `auto`; the other keeps its value.
        measure: fills a model with a candidate and measures it.
        judged_by: what it is measured on, for the report.
        base_entropy: of the base on the calibration responses, for candidates that cannot be graded.
    """
    tried: dict[tuple[float, float], Outcome] = {}

    def try_all(candidates: Iterable[tuple[float, float]]) -> tuple[float, float]:
        for candidate in candidates:
            if candidate not in tried:
                tried[candidate] = measure(*candidate)
        trial = taken(trials(tried, config, base_entropy))
        return trial.alpha, trial.rho

    fixed_rho = 0.0 if config.rho == AUTO or config.criterion is None else config.rho
    alpha, rho = config.alpha, fixed_rho
    if config.alpha == AUTO:
        alpha, rho = try_all([UNTOUCHED, *((each, fixed_rho) for each in config.auto.alphas)])
    if config.rho == AUTO:
        alpha, rho = try_all((alpha, each) for each in (0.0, *config.auto.rhos))
    rows = trials(tried, config, base_entropy)
    said = _on_rewards if rows[0].pass_at_k is not None else _on_entropy
    sentence, rule = said(rows, config, tried, base_entropy)
    return Choice(alpha, rho, sentence, rule, judged_by, config.auto.k, rows)


def trials(
    tried: dict[tuple[float, float], Outcome], config: RejuvenationConfig, base_entropy: float | None
) -> list[Trial]:
    """The table: each candidate next to the best one."""
    auto = config.auto
    passes = {
        key: [pass_at_k(auto.samples, count, auto.k) for count in outcome.solved]
        for key, outcome in tried.items()
        if outcome.solved is not None
    }
    best = max(passes.values(), key=mean, default=None)
    enough = 0.0 if base_entropy is None else auto.entropy_ratio * base_entropy
    enough = min(enough, max(outcome.entropy for outcome in tried.values()))  # where none gives back as much: the most
    rows = []
    for (alpha, rho), outcome in tried.items():
        found = behind = error = None
        good = outcome.entropy >= enough
        if best is not None:
            assert outcome.solved is not None
            found = Passes.of(outcome.solved, auto.samples, auto.k, auto.k)
            gaps = [b - own for b, own in zip(best, passes[alpha, rho], strict=True)]
            behind, error = mean(gaps), standard_error(gaps)
            good = behind <= auto.tolerance * mean(best)
            untold = behind <= auto.standard_errors * error and any(outcome.solved)
            good = good or ((alpha, rho) == UNTOUCHED and untold)
        rows.append(
            Trial(
                alpha=alpha,
                rho=rho,
                reset_ratio=outcome.reset_ratio,
                taken_back=1.0 - alpha * (1.0 - outcome.reset_ratio),
                entropy=outcome.entropy,
                pass_at_1=found.pass_at_1 if found else None,
                pass_at_k=found.pass_at_k if found else None,
                pass_at_k_error=found.pass_at_k_error if found else None,
                signal_share=found.signal_share if found else None,
                behind=behind,
                behind_error=error,
                good_enough=good,
            )
        )
    return rows


def taken(rows: Sequence[Trial]) -> Trial:
    """What the rule takes of the candidates that are good enough; of equal ones the least repair.

    With rewards: the SFT checkpoint as it is, or else the one with the most entropy. Where nothing was graded or
    nothing was solved: the least repair.
    """
    enough = [row for row in rows if row.good_enough]
    if not any(row.pass_at_k for row in rows):
        return min(enough, key=lambda row: row.taken_back)
    untouched = [row for row in enough if _untouched(row)]
    return max(untouched or enough, key=lambda row: (row.entropy, -row.taken_back))


def _on_rewards(
    rows: Sequence[Trial],
    config: RejuvenationConfig,
    tried: dict[tuple[float, float], Outcome],
    base_entropy: float | None,
) -> tuple[str, str]:
    """Sentence and rule of a choice by rewards."""
    auto, row = config.auto, taken(rows)
    best = max(rows, key=lambda each: each.pass_at_k or 0.0)
    errors = f"{auto.standard_errors:g} standard error{'s' if auto.standard_errors != 1 else ''}"
    rule = (
        f"of the candidates whose pass@{auto.k} is at most {auto.tolerance:.0%} of the best one below it, the one with "
        "the most entropy is taken; nothing is repaired where the SFT checkpoint is among them or at most "
        f"{errors} (of the difference, prompt by prompt) below the best. First along alpha without a reset, then along "
        "rho at the alpha taken"
    )
    if not best.pass_at_k:
        return (
            f"{_name(row)}: no candidate solved any prompt, so nothing can be said for a repair; train with SFT "
            "longer, or give RL an easier task",
            rule,
        )
    prompts = len(next(iter(tried.values())).solved or [])
    sentence = f"{_name(row)}: pass@{auto.k} {row.pass_at_k:.3f} on {prompts} prompts"
    if row is best:
        sentence += ", the best"
    else:
        sentence += f", near the best ({_short(best)}: {best.pass_at_k:.3f})"
    if not _untouched(row):
        sentence += f", entropy {row.entropy:.3f} nats, the most of those near the best"
    first = rows[0]
    if first is not row:
        label = "the SFT checkpoint as it is" if _untouched(first) else _short(first)
        sentence += f"; {label} has {first.pass_at_k:.3f} and {first.entropy:.3f} nats"
    if failed := sum(outcome.failed for outcome in tried.values()):
        sentence += f" ({failed} rollouts failed in the environment and count as unsolved)"
    return sentence, rule


def _on_entropy(
    rows: Sequence[Trial],
    config: RejuvenationConfig,
    tried: dict[tuple[float, float], Outcome],
    base_entropy: float | None,
) -> tuple[str, str]:
    """Sentence and rule of a choice by entropy alone."""
    row, share = taken(rows), config.auto.entropy_ratio
    assert base_entropy is not None
    rule = (
        f"nothing can be graded: taken is the least repair whose entropy on the calibration responses is at least "
        f"{share:.0%} of the base's, or else the one with the most entropy; the size of a repair is 1 - alpha (1 - "
        "share of neurons reset). First along alpha without a reset, then along rho at the alpha taken"
    )
    return f"{_name(row)}: entropy {row.entropy:.3f} nats on calibration responses, base {base_entropy:.3f}", rule


def _untouched(row: Trial) -> bool:
    """Whether it is the SFT checkpoint as it is."""
    return (row.alpha, row.rho) == UNTOUCHED


def _name(row: Trial) -> str:
    """The decision in words."""
    return "no repair needed (alpha 1, rho 0)" if _untouched(row) else f"taken: {_short(row)}"


def _short(row: Trial) -> str:
    return f"alpha {row.alpha:g}, rho {row.rho:g}"
