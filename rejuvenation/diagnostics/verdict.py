"""What to do with a checkpoint, said in one sentence with the numbers that decide."""

from __future__ import annotations

from dataclasses import dataclass

from configs.diagnosis import VerdictConfig
from rejuvenation.diagnostics.measures import Measures
from rejuvenation.diagnostics.token_entropy import TokenEntropy

START = "start RL"
REJUVENATE = "rejuvenate"
TRAIN = "train longer"
NONE = "no verdict"
SOLVED = 0.95
"""pass@1 from which on the prompts are too easy to say much."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action and its reasons."""

    action: str
    """`start RL`, `rejuvenate`, `train longer`, or `no verdict` where no number decides."""
    sentence: str
    """The action and the numbers it rests on."""
    numbers: dict[str, float]
    """What was compared with the thresholds of `VerdictConfig`, under their names."""


def judge(base: Measures, sft: Measures, config: VerdictConfig) -> Verdict:
    """Decide what to do with an SFT checkpoint.

    1. Collapsed: its entropy, or its share of high-entropy tokens, is below a share of the base's. Some fall is what
       SFT is for (it picks one style of answer), so this alone decides only where nothing else was measured.
    2. Weak: at least half of the signs measured are weak (groups with a signal, failures that sampling recovers, the
       gradient's signal-to-noise ratio).
    3. Not collapsed and pass@k next to 0 (without a reward: entropy and loss like the base's): train longer.
       Collapsed and weak: rejuvenate. Else: start RL.

    Args:
        base: measures of the base.
        sft: of the checkpoint.
        config: the thresholds.
    """
    entropy = _entropy_numbers(base, sft)
    passes = sft.passes
    numbers = dict(entropy)
    if passes:
        numbers |= {"pass_at_k": passes.pass_at_k, "signal_share": passes.signal_share, "recovered": passes.recovered}
    if sft.gradient:
        numbers["gradient_snr"] = sft.gradient.snr
    if base.loss and sft.loss is not None:
        numbers["loss_ratio"] = sft.loss / base.loss
    if not entropy and not passes:
        return Verdict(NONE, f"{NONE}: neither entropy nor pass@k was measured.", numbers)
    collapsed = any(numbers[name] < getattr(config, name) for name in entropy)
    signs: dict[str, bool] = {
        name: numbers[name] <= config.gradient_snr if name == "gradient_snr" else numbers[name] < getattr(config, name)
        for name in ("signal_share", "recovered", "gradient_snr")
        if name in numbers
    }
    weak = 2 * sum(signs.values()) >= len(signs)
    if passes:
        untaught = passes.pass_at_k < config.pass_at_k
    else:
        like_base = (numbers.get("entropy_ratio", 0.0), numbers.get("loss_ratio", 0.0))
        untaught = min(like_base) > config.base_like
    action = START
    if collapsed and weak:
        action = REJUVENATE
    elif untaught and not collapsed:
        action = TRAIN
    return Verdict(action, _sentence(action, numbers, signs, sft, config), numbers)


def _entropy_numbers(base: Measures, sft: Measures) -> dict[str, float]:
    """Entropy and high-entropy share relative to the base's: on rollouts, else on calibration responses."""
    for of_base, of_sft in ((base.rollout_entropy, sft.rollout_entropy), (base.entropy, sft.entropy)):
        if of_base and of_sft:
            return _ratios(of_base, of_sft)
    return {}


def _ratios(base: TokenEntropy, sft: TokenEntropy) -> dict[str, float]:
    pairs = {
        "entropy_ratio": (sft.mean, base.mean),
        "high_entropy_ratio": (sft.high_share, base.high_share),
    }
    return {name: ours / theirs for name, (ours, theirs) in pairs.items() if theirs > 0.0}


def _sentence(
    action: str, numbers: dict[str, float], signs: dict[str, bool], sft: Measures, config: VerdictConfig
) -> str:
    """One sentence: the action, then each number with the threshold it was compared with."""
    parts = []
    where = "rollout " if sft.rollout_entropy else ""
    for name, what in (("entropy_ratio", "entropy"), ("high_entropy_ratio", "share of high-entropy tokens")):
        if name in numbers:
            parts.append(f"{where}{what} {_compared(numbers[name], getattr(config, name))} of the base's")
    if sft.passes:
        parts.append(f"pass@1 {sft.passes.pass_at_1:.0%}")
        parts.append(f"pass@{sft.passes.k} {_compared(numbers['pass_at_k'], config.pass_at_k)}")
        parts.append(f"groups with a signal {_compared(numbers['signal_share'], config.signal_share)}")
        parts.append(f"failures recovered by sampling {_compared(numbers['recovered'], config.recovered)}")
    elif "loss_ratio" in numbers:
        parts.append(f"loss {_compared(numbers['loss_ratio'], config.base_like)} of the base's, no pass@k measured")
    if "gradient_snr" in signs:
        relation = "<=" if signs["gradient_snr"] else ">"
        parts.append(f"gradient signal-to-noise {numbers['gradient_snr']:.2g} ({relation} {config.gradient_snr:g})")
    easy = sft.passes is not None and sft.passes.pass_at_1 >= SOLVED
    caveat = " (nearly every rollout is right: harder prompts would say more)" if easy else ""
    return f"{action}: {', '.join(parts)}{caveat}."


def _compared(number: float, limit: float) -> str:
    """A share next to its threshold, in percent."""
    return f"{number:.0%} ({'<' if number < limit else '>='} {limit:.0%})"
