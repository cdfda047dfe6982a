"""Sharpness and gradient signal before and after a repair, on its calibration pairs: rows of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.diagnosis import DiagnosisConfig
from configs.rejuvenation import RejuvenationConfig
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.diagnostics.grading import Grader
from rejuvenation.diagnostics.ladder_model import check_memory
from rejuvenation.diagnostics.material import Material
from rejuvenation.diagnostics.measures import measure
from rejuvenation.diagnostics.prompts import prompts_of
from rejuvenation.pairs import TokenPair

PROMPTS = 32
"""Prompts that are sampled from."""
TOKENS = 128
"""Longest rollout."""


class Plasticity:
    """Measures the model in memory, filled with one checkpoint after another, always on the same data.

    Answers are graded against the final answers of the calibration responses, where the SFT checkpoint has a tokenizer
    to read them with. Costs and formulas: docs/diagnostics.md. Memory: ten times the weights.

    Args:
        sft: the SFT checkpoint.
        config: device and dtype.
        pairs: calibration pairs.
        seed: of rollouts, noise and probes.

    Raises:
        ConfigError: it does not fit into memory.
    """

    def __init__(
        self, sft: CheckpointReader, config: RejuvenationConfig, pairs: Sequence[TokenPair], seed: int
    ) -> None:
        self.config = DiagnosisConfig(
            only=("passes", "gradient", "sharpness"),
            prompts=PROMPTS,
            max_new_tokens=TOKENS,
            device=config.device,
            dtype=config.scoring_dtype,
            seed=seed,
        )
        check_memory(sft, self.config)
        prompts, reward = [pair.prompt_ids for pair in pairs], None
        if (Path(sft.directory) / "tokenizer_config.json").is_file():
            answers = [prompt.answer for prompt in prompts_of(pairs, sft.directory)]
            prompts = [ids for ids, answer in zip(prompts, answers, strict=True) if answer is not None]
            reward = Grader([answer for answer in answers if answer is not None]) if prompts else None
        self.material = Material.of(sft.directory, pairs, prompts, reward, self.config)
        self.found: dict[str, float] = {}
        """What is measured, then `_` and whose weights: `Report.plasticity`."""

    def add(self, model: Any, checkpoint: str) -> None:
        """Measure the model, which holds this checkpoint's weights (base, sft, fused, rejuvenated)."""
        measures = measure(model, self.material, self.config, checkpoint)
        rows: dict[str, float] = {}
        for where, sharp in (("responses", measures.sharpness_on_text), ("rollouts", measures.sharpness_on_rollouts)):
            if sharp is not None:
                rows[f"largest Hessian eigenvalue on {where}"] = sharp.eigenvalue
                rows[f"Hessian trace on {where}"] = sharp.trace
                for size, rise in zip(sharp.perturbations, sharp.loss_increases, strict=True):
                    rows[f"rise of the loss on {where} under {size:.0%} weight noise, nats"] = rise
        if measures.passes is not None:
            rows[f"pass@{measures.passes.k}"] = measures.passes.pass_at_k
            rows["share of groups with a signal"] = measures.passes.signal_share
        if measures.gradient is not None:
            rows["policy gradient, signal to noise"] = measures.gradient.snr
        self.found |= {f"{name}_{checkpoint}": value for name, value in rows.items()}
