"""Repairs of one SFT checkpoint for any alpha and rho, from one scoring, and what they do on prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from configs.auto import AUTO
from configs.diagnosis import DiagnosisConfig
from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation.alignment import Alignment
from rejuvenation.choice import Choice, Outcome, choose
from rejuvenation.diagnostics.grading import Grader
from rejuvenation.diagnostics.material import Material, Reward
from rejuvenation.diagnostics.measures import measure
from rejuvenation.diagnostics.prompts import prompts_of
from rejuvenation.fused import Fused
from rejuvenation.neurons import NeuronTable
from rejuvenation.pairs import TokenPair
from rejuvenation.repair import Repair
from rejuvenation.reset_set import Evidence, reset_sets
from rejuvenation.scored_model import entropies, load_model, put_weights
from rejuvenation.scoring import target_tokens
from rejuvenation.spread import Weights


@dataclass(frozen=True, slots=True)
class Scored:
    """Reset sets of one scoring."""

    selected: dict[float, torch.Tensor] = field(default_factory=dict)
    """By rho: [neurons] bool."""
    reconstruction_error: float | None = None
    """Largest |z~ - z|; None without attribution."""


class Candidates:
    """Repaired weights by alpha and rho; holds the reset sets and no weights.

    Args:
        alignment: the two checkpoints.
        config: the repair's settings; `auto` names the rhos.
        seed: of what is random in the steps.
    """

    def __init__(self, alignment: Alignment, config: RejuvenationConfig, seed: int) -> None:
        self.alignment = alignment
        self.config = config
        self.seed = seed
        self.table = NeuronTable.of(alignment.sft) if config.criterion is not None else None
        self.scored = Scored()

    @property
    def rhos(self) -> list[float]:
        """Rhos above 0 for which neurons are chosen."""
        if self.table is None:
            return []
        wanted = self.config.auto.rhos if self.config.rho == AUTO else [self.config.rho]
        return sorted({rho for rho in wanted if rho > 0.0})

    def score(self, model: Any, pairs: Sequence[TokenPair]) -> None:
        """Choose the neurons of every rho. The model is filled with other weights.

        Args:
            model: of the checkpoints' shape; not looked at where `config.needs_pairs` is false.
            pairs: calibration pairs, all used.
        """
        if self.table is None or not self.rhos:
            return
        evidence = None
        if self.config.needs_pairs:
            put_weights(model, Weights(self.alignment.sft.entries, self.alignment.base_tensor))
            base = entropies(model, pairs, "base")
            put_weights(model, Weights(self.alignment.sft.entries, self.alignment.sft.tensor))
            sft = entropies(model, pairs, "sft")
            count = self.config.target_tokens
            targets = [target_tokens(after - before, count) for after, before in zip(sft, base, strict=True)]
            evidence = Evidence(model, self.table, self.config, self.alignment, pairs, targets)
        sets, error = reset_sets(self.config, self.table, self.alignment, evidence, self.seed, self.rhos)
        self.scored = Scored(dict(zip(self.rhos, sets, strict=True)), error)

    def repair(self, alpha: float, rho: float) -> Repair:
        """The repaired weights of a candidate, computed when they are asked for."""
        config = replace(self.config, alpha=alpha, rho=rho)
        return Repair(Fused(self.alignment, config, seed=self.seed), config, self.table, self.scored.selected.get(rho))

    def weights(self, alpha: float, rho: float) -> Weights:
        """The same by name, each tensor computed when it is asked for."""
        return Weights(self.alignment.sft.entries, self.repair(alpha, rho).tensor)

    def reset_ratio(self, rho: float) -> float:
        """Share of all neurons that are reset at a rho."""
        selected = self.scored.selected.get(rho)
        return 0.0 if selected is None else selected.float().mean().item()


def choose_repair(
    alignment: Alignment,
    config: RejuvenationConfig,
    pairs: Sequence[TokenPair],
    calibration: Sequence[TokenPair],
    prompts: Sequence[Sequence[int]],
    reward: Reward | None,
    seed: int,
) -> tuple[Choice, Scored]:
    """Choose alpha and rho on one model in memory, which is filled with candidate after candidate.

    Args:
        alignment: the two checkpoints.
        config: alpha or rho is `auto`.
        pairs: calibration pairs that neurons are scored on.
        calibration: all calibration pairs: without `prompts`, theirs are sampled from, and the final answers of their
            responses are what counts as right.
        prompts: token ids to sample from.
        reward: grades responses to `prompts`.
        seed: of rollouts, and of what is random in the steps.

    Raises:
        ConfigError: there is neither a graded prompt nor a calibration pair.
    """
    candidates = Candidates(alignment, config, seed)
    asked, reward, graded_by = _graded(alignment.sft.directory, config, calibration, prompts, reward)
    if reward is None and not pairs:
        rule = "can be auto only with prompts whose answers are known, or with calibration pairs"
        name = "alpha" if config.alpha == AUTO else "rho"
        fix = "Give --prompts with answers or --calibration (in Python prompts and a reward, or pairs), or a number."
        raise ConfigError(f"rejuvenation.{name}", rule, AUTO, fix)
    model = load_model(alignment.sft.directory, config)
    device = next(model.parameters()).device
    candidates.score(model, pairs)
    found = (
        _on_text(model, candidates, pairs)
        if reward is None
        else _on_prompts(model, candidates, asked, reward, graded_by)
    )
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()  # other processes share the GPU
    return found, candidates.scored


def _on_text(model: Any, candidates: Candidates, pairs: Sequence[TokenPair]) -> Choice:
    """The choice where nothing can be graded."""

    def measure_entropy(alpha: float, rho: float) -> Outcome:
        put_weights(model, candidates.weights(alpha, rho))
        return Outcome(candidates.reset_ratio(rho), _mean_entropy(model, pairs, "repaired"))

    put_weights(model, Weights(candidates.alignment.sft.entries, candidates.alignment.base_tensor))
    base_entropy = _mean_entropy(model, pairs, "base")
    judged_by = f"the responses of {len(pairs)} calibration pairs, teacher-forced"
    return choose(candidates.config, measure_entropy, judged_by=judged_by, base_entropy=base_entropy)


def _on_prompts(
    model: Any, candidates: Candidates, asked: Sequence[Sequence[int]], reward: Reward, graded_by: str
) -> Choice:
    """The choice by what candidates solve."""
    auto = candidates.config.auto
    settings = DiagnosisConfig(
        only=("rollouts", "passes"),
        prompts=auto.prompts,
        samples=auto.samples,
        group_size=auto.samples,
        k=auto.k,
        max_new_tokens=auto.max_new_tokens,
        rollout_batch=auto.batch_size,
        seed=candidates.seed,
    )
    material = Material.of(candidates.alignment.sft.directory, [], asked, reward, settings)

    def measure_passes(alpha: float, rho: float) -> Outcome:
        put_weights(model, candidates.weights(alpha, rho))
        found = measure(model, material, settings, "repaired")
        assert found.passes is not None
        assert found.rollout_entropy is not None
        return Outcome(candidates.reset_ratio(rho), found.rollout_entropy.mean, found.passes.solved)

    judged_by = f"{auto.samples} rollouts of each of {len(material.prompts)} prompts, {graded_by}"
    return choose(candidates.config, measure_passes, judged_by=judged_by)


def _graded(
    tokenizer_dir: Path,
    config: RejuvenationConfig,
    calibration: Sequence[TokenPair],
    prompts: Sequence[Sequence[int]],
    reward: Reward | None,
) -> tuple[Sequence[Sequence[int]], Reward | None, str]:
    """Prompts to sample from, what grades the answers (None: nothing does), and how, for a person."""
    if prompts:
        return prompts, reward, f"graded by {reward.name if isinstance(reward, Grader) else 'a reward of the caller'}"
    if not calibration or not (tokenizer_dir / "tokenizer_config.json").is_file():
        return [], None, ""
    marker = config.auto.answer_marker
    known = [prompt for prompt in prompts_of(calibration, tokenizer_dir, marker) if prompt.answer is not None]
    if not known:
        return [], None, ""
    grader = Grader([str(prompt.answer) for prompt in known], marker)
    return [prompt.token_ids for prompt in known], grader, f"graded by {grader.name}"


def _mean_entropy(model: Any, pairs: Sequence[TokenPair], checkpoint: str) -> float:
    return torch.cat(entropies(model, pairs, checkpoint)).mean().item()
