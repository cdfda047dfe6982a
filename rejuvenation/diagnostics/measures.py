"""Everything that is measured by running one model: a base or an SFT checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from configs.diagnosis import ON_REWARDS, ON_TEXT, DiagnosisConfig
from rejuvenation.diagnostics.batches import batches_of, text_loss
from rejuvenation.diagnostics.gradient_signal import GradientSignal, gradient_signal
from rejuvenation.diagnostics.material import Material
from rejuvenation.diagnostics.passes import Passes
from rejuvenation.diagnostics.rollouts import sample
from rejuvenation.diagnostics.sharpness import Sharpness, sharpness
from rejuvenation.diagnostics.token_entropy import TokenEntropy
from rejuvenation.pairs import TokenPair
from rejuvenation.scored_model import entropies


@dataclass(frozen=True, slots=True)
class Measures:
    """One model's numbers; null where a diagnostic was not asked for or lacks its data."""

    entropy: TokenEntropy | None
    """On the calibration responses, teacher-forced."""
    loss: float | None
    """Mean -log p per calibration response token, nats."""
    rollout_entropy: TokenEntropy | None
    """On the model's own rollouts."""
    response_length: float | None
    """Mean tokens per rollout."""
    unfinished: float | None
    """Share of rollouts that the token limit cut."""
    passes: Passes | None
    """pass@k and the expected share of groups with a signal."""
    gradient: GradientSignal | None
    """Signal-to-noise of the policy gradient."""
    sharpness_on_text: Sharpness | None
    """On calibration responses, which should be held out from SFT."""
    sharpness_on_rollouts: Sharpness | None
    """On the model's own rollouts."""
    seconds: dict[str, float]
    """Wall time by diagnostic; that of sampling is under `sampling`."""

    @classmethod
    def none(cls) -> Measures:
        """Of a model that was not run."""
        return cls(None, None, None, None, None, None, None, None, None, {})


class Clock:
    """Adds up wall time by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the time of a `with` block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def needs_model(material: Material, config: DiagnosisConfig) -> bool:
    """Whether a diagnostic that `config.only` names runs the model and has its data."""
    wanted = set(config.only)
    on_text = bool(material.pairs) and not wanted.isdisjoint((*ON_TEXT, "sharpness"))
    on_rollouts = bool(material.prompts) and not wanted.isdisjoint(("rollouts", "sharpness"))
    on_rewards = bool(material.prompts) and material.reward is not None and not wanted.isdisjoint(ON_REWARDS)
    return on_text or on_rollouts or on_rewards


def measure(model: Any, material: Material, config: DiagnosisConfig, checkpoint: str) -> Measures:
    """Run one model through the diagnostics that `config.only` names and `material` has the data for.

    Args:
        model: filled with the checkpoint's weights, frozen.
        material: the data.
        config: amounts and seeds.
        checkpoint: the model's name in errors.

    Raises:
        ValueError: an entropy is not finite, or a reward is not.
    """
    clock = Clock()
    wanted = set(config.only)
    device = next(model.parameters()).device
    pairs = material.pairs
    entropy = loss = None
    if "entropy" in wanted and pairs:
        with clock.of("entropy"):
            entropy = TokenEntropy.of(torch.cat(entropies(model, pairs, checkpoint)))
    if "loss" in wanted and pairs:
        with clock.of("loss"):
            loss = text_loss(model, batches_of(pairs, config.batch_tokens, device))
    rollouts = _rollouts(model, material, config, wanted, clock)
    flat = [rollout for of_prompt in rollouts for rollout in of_prompt]
    rollout_entropy = passes = gradient = None
    if "rollouts" in wanted and flat:
        with clock.of("rollouts"):
            rollout_entropy = TokenEntropy.of(torch.cat(entropies(model, flat, checkpoint)))
    if material.reward and flat and not wanted.isdisjoint(ON_REWARDS):
        with clock.of("reward"):
            rewards = _rewards(rollouts, material)
        if "passes" in wanted:
            solved = [sum(reward > 0.0 for reward in of_prompt) for of_prompt in rewards]
            passes = Passes.of(solved, config.samples, config.k, config.group_size)
        if "gradient" in wanted and len(rollouts) > 1:
            with clock.of("gradient"):
                gradient = gradient_signal(model, rollouts, rewards, config.group_size, config.batch_tokens)
    own = [of_prompt[0] for of_prompt in rollouts]
    return Measures(
        entropy=entropy,
        loss=loss,
        rollout_entropy=rollout_entropy,
        response_length=sum(len(rollout.response_ids) for rollout in flat) / len(flat) if flat else None,
        unfinished=sum(rollout.response_ids[-1] not in material.end_ids for rollout in flat) / len(flat)
        if flat
        else None,
        passes=passes,
        gradient=gradient,
        sharpness_on_text=_sharpness(model, pairs, config, wanted, clock),
        sharpness_on_rollouts=_sharpness(model, own, config, wanted, clock),
        seconds=clock.seconds,
    )


def _rollouts(
    model: Any, material: Material, config: DiagnosisConfig, wanted: set[str], clock: Clock
) -> list[list[TokenPair]]:
    """[prompts][n] rollouts, where a diagnostic needs them; sharpness alone needs one per prompt."""
    many = "rollouts" in wanted or (material.reward is not None and not wanted.isdisjoint(ON_REWARDS))
    if not material.prompts or not (many or "sharpness" in wanted):
        return []
    with clock.of("sampling"):
        return sample(
            model,
            material.prompts if many else material.prompts[: config.sharpness_pairs],
            config.samples if many else 1,
            end_ids=material.end_ids,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.rollout_batch,
            seed=config.seed,
        )


def _rewards(rollouts: list[list[TokenPair]], material: Material) -> list[list[float]]:
    assert material.reward is not None
    return [
        [float(material.reward(index, material.decode(rollout.response_ids))) for rollout in of_prompt]
        for index, of_prompt in zip(material.indices, rollouts, strict=True)
    ]


def _sharpness(
    model: Any, pairs: Sequence[TokenPair], config: DiagnosisConfig, wanted: set[str], clock: Clock
) -> Sharpness | None:
    if "sharpness" not in wanted or not pairs:
        return None
    with clock.of("sharpness"):
        return sharpness(
            model,
            batches_of(pairs[: config.sharpness_pairs], config.batch_tokens, next(model.parameters()).device),
            lanczos_iterations=config.lanczos_iterations,
            trace_probes=config.trace_probes,
            perturbations=config.perturbations,
            perturbation_seeds=config.perturbation_seeds,
            seed=config.seed,
        )
