from __future__ import annotations

from dataclasses import replace

import pytest

from configs.diagnosis import VerdictConfig
from rejuvenation.diagnostics.gradient_signal import GradientSignal
from rejuvenation.diagnostics.measures import Measures
from rejuvenation.diagnostics.passes import Passes
from rejuvenation.diagnostics.token_entropy import TokenEntropy
from rejuvenation.diagnostics.verdict import NONE, REJUVENATE, START, TRAIN, Verdict, judge

NOTHING = Measures.none()


def entropy(mean: float, high: float) -> TokenEntropy:
    return TokenEntropy(mean=mean, high_share=high, top_mean=mean, num_tokens=100)


def passes(*solved: int) -> Passes:
    return Passes.of(solved, samples=8, k=8, group_size=8)


def gradient(snr: float) -> GradientSignal:
    return GradientSignal(snr, snr, 0.0, 0.0, 0.0, 1, 1)


BASE = replace(NOTHING, rollout_entropy=entropy(0.26, 0.2), loss=0.13)
DEAD = passes(8, 0, 0, 0, 0, 0, 0, 0, 0, 1)  # one prompt in ten has a signal, and a tenth of the failures is found
ALIVE = passes(1, 2, 4, 0, 0, 8, 1, 3, 0, 1)
HOPELESS = passes(*[0] * 20, 1)


def verdict(mean: float, high: float, graded: Passes | None, snr: float | None = None) -> Verdict:
    sft = replace(NOTHING, rollout_entropy=entropy(mean, high), passes=graded)
    return judge(BASE, sft if snr is None else replace(sft, gradient=gradient(snr)), VerdictConfig())


@pytest.mark.parametrize(
    ("mean", "high", "graded", "snr", "action"),
    [
        (0.19, 0.11, ALIVE, 0.4, START),  # Mod
        (0.06, 0.05, DEAD, -0.1, REJUVENATE),  # Over
        (0.06, 0.05, ALIVE, 0.4, START),  # fewer styles than the base, but sampling still finds answers
        (0.06, 0.05, ALIVE, -0.1, START),  # one weak sign of three
        (0.19, 0.05, DEAD, 0.4, REJUVENATE),  # few high positions are enough, and two weak signs of three
        (0.25, 0.2, HOPELESS, -0.1, TRAIN),  # like the base, and solves nothing
        (0.06, 0.05, HOPELESS, -0.1, REJUVENATE),  # solves nothing because it has collapsed
        (0.25, 0.2, DEAD, 0.0, START),  # not collapsed: there is nothing to repair
    ],
)
def test_rule(mean: float, high: float, graded: Passes, snr: float, action: str) -> None:
    assert verdict(mean, high, graded, snr).action == action


def test_without_rewards_entropy_and_loss_decide() -> None:
    def of(mean: float, loss: float) -> str:
        sft = replace(NOTHING, rollout_entropy=entropy(mean, mean * 0.8), loss=loss)
        return judge(BASE, sft, VerdictConfig()).action

    assert of(0.06, 0.65) == REJUVENATE
    assert of(0.19, 0.12) == START
    assert of(0.25, 0.125) == TRAIN
    assert of(0.25, 0.05) == START, "as open as the base, but SFT has taught it something"


def test_without_rollouts_the_entropy_on_responses_counts() -> None:
    base, sft = (replace(NOTHING, entropy=entropy(*numbers)) for numbers in ((0.2, 0.1), (0.05, 0.04)))
    found = judge(base, sft, VerdictConfig())
    assert found.action == REJUVENATE
    assert found.numbers == pytest.approx({"entropy_ratio": 0.25, "high_entropy_ratio": 0.4})
    assert "rollout" not in found.sentence


def test_no_number_gives_no_verdict_and_a_base_without_entropy_no_division() -> None:
    assert judge(NOTHING, NOTHING, VerdictConfig()).action == NONE
    base = replace(NOTHING, rollout_entropy=entropy(0.0, 0.0))
    assert judge(base, replace(base, passes=ALIVE), VerdictConfig()).action == START


def test_sentence_names_the_numbers_and_their_thresholds() -> None:
    found = verdict(0.052, 0.11, DEAD, -0.1)
    assert found.sentence == (
        "rejuvenate: rollout entropy 20% (< 50%) of the base's, rollout share of high-entropy tokens 55% (>= 50%) of "
        "the base's, pass@1 11%, pass@8 20% (>= 10%), groups with a signal 10% (< 25%), failures recovered by sampling "
        "10% (< 25%), gradient signal-to-noise -0.1 (<= 0)."
    )
    assert "harder prompts" in verdict(0.05, 0.1, passes(8, 8, 8), 0.0).sentence


def test_thresholds_are_the_configs() -> None:
    sft = replace(NOTHING, rollout_entropy=entropy(0.19, 0.15), passes=DEAD)
    assert judge(BASE, sft, VerdictConfig()).action == START
    assert judge(BASE, sft, VerdictConfig(entropy_ratio=0.8)).action == REJUVENATE
    assert judge(BASE, sft, VerdictConfig(entropy_ratio=0.8, signal_share=0.05, recovered=0.05)).action == START
