"""What a repair came to, in words for a person who has to decide."""

from __future__ import annotations

from dataclasses import dataclass

from rejuvenation.report import EntropyReport, Report

LITTLE = 0.1
"""Share of the entropy taken by SFT below which a repair has given back little."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One headline, and the numbers that carry it."""

    tone: str
    """`good`, `caution` or `unknown`."""
    headline: str
    sentences: list[str]


def verdict(report: Report) -> Verdict:
    """Judge a repair by token entropy on the calibration pairs; without pairs nothing is known.

    `good` is an entropy between that of the SFT checkpoint and that of base. Entropy that did not rise, or by less than
    `LITTLE` of what SFT had taken, that rose past base, or that SFT had not lowered at all, asks for caution.
    """
    if report.choice is not None and report.choice.needs_no_repair:
        kept = "What was written is the SFT checkpoint, byte for byte; the table of candidates is below."
        return Verdict("good", "No repair is needed: RL can start from the SFT checkpoint.", [kept])
    at_targets, on_responses = report.entropy_at_targets, report.entropy_on_responses
    fused = f"The weights were repaired by {', '.join(report.steps)} (alpha {report.alpha:g})"
    if at_targets is None or on_responses is None:
        why = "no calibration pairs were given" if not report.num_pairs else "the notes say why"
        sentences = [f"{fused}; no neuron was reset.", f"Entropies were not measured: {why}."]
        return Verdict("unknown", "Whether the model is less over-confident now is not known.", sentences)
    before, after = at_targets.sft, at_targets.rejuvenated
    verb = "rose" if after > before else "fell" if after < before else "stayed"
    change = f"{verb} from {nats(before)} to {nats(after)} nats (base {nats(at_targets.base)})"
    sentences = [f"Mean entropy at target tokens {change}."]
    if report.num_reset:
        sentences.append(
            f"{percent(report.effective_ratio)} of the neurons ({report.num_reset:,} of {report.num_neurons:,}) were "
            f"reset; fusion alone gave {nats(at_targets.fused)} nats."
        )
    else:
        sentences.append(f"{fused}; no neuron was reset.")
    return Verdict(*_judged(at_targets, on_responses), sentences)


def _judged(at_targets: EntropyReport, on_responses: EntropyReport) -> tuple[str, str]:
    """Tone and headline."""
    if on_responses.sft >= on_responses.base:
        return "caution", "SFT had not made this model over-confident on these pairs: it may need no repair."
    if at_targets.rejuvenated <= at_targets.sft:
        return "caution", "The repair did not make the model less certain."
    if on_responses.rejuvenated > on_responses.base:
        return "caution", "The repair went too far: the model is now less certain than base was."
    if at_targets.sft >= at_targets.base:
        return "good", "The repair made the model less certain again."
    back = (at_targets.rejuvenated - at_targets.sft) / (at_targets.base - at_targets.sft)
    if back > 1.0:
        return "good", "The repair gave back all the entropy that SFT had taken at target tokens."
    if back < LITTLE:
        return (
            "caution",
            f"The repair gave back only {percent(back)} of the entropy that SFT had taken at target tokens.",
        )
    return "good", f"The repair gave back {percent(back)} of the entropy that SFT had taken at target tokens."


def nats(value: float) -> str:
    """An entropy, to three decimals."""
    return "< 0.001" if 0.0 < value < 0.0005 else f"{value:.3f}"


def percent(share: float) -> str:
    """A share, to two digits."""
    value = 100.0 * share
    if 0.0 < value < 9.95:
        return f"{value:.1f} %" if value >= 0.95 else f"{value:.2g} %"
    return f"{value:.0f} %"
