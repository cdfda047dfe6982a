"""What a repair did, as numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rejuvenation.choice import Choice
from rejuvenation.excerpts import Excerpt
from rejuvenation.histograms import EntropyHistograms

REPORT_FILE = "report.json"


@dataclass(frozen=True, slots=True)
class EntropyReport:
    """Mean token entropy in nats, teacher-forced on the calibration pairs."""

    base: float
    """Of the base checkpoint."""
    sft: float
    """Of the SFT checkpoint: before the repair."""
    fused: float
    """After fusion alone."""
    rejuvenated: float
    """After fusion and reset: of the weights that were written."""


@dataclass(frozen=True, slots=True)
class Report:
    """Settings, measurements and cost of one `transform`.

    report.json stays below 512 kB for models of up to 128 layers in up to 500 files: it holds excerpts of at most 8
    pairs, 80 tokens each and 32 characters a token, not the pairs themselves.
    """

    alpha: float
    """Weight of the SFT checkpoint in the fusion."""
    rho: float
    """Share of neurons kept per target token."""
    steps: list[str]
    """What was done: fusions, then the reset, named by what its neurons were chosen by."""
    num_neurons: int
    """Neurons of the model; 0 where the reset was not asked for."""
    num_reset: int
    """Neurons in the reset set."""
    effective_ratio: float
    """num_reset / num_neurons: larger than rho, because the set is a union over target tokens."""
    reconstruction_error: float | None
    """Largest |z~ - z| over the target tokens (Eq. 2), in logits; null without attribution."""
    entropy_at_targets: EntropyReport | None
    """Means over the target tokens; null without calibration pairs."""
    entropy_on_responses: EntropyReport | None
    """Means over all response tokens; null without calibration pairs."""
    num_pairs: int
    """Calibration pairs used."""
    num_target_tokens: int
    """Target tokens over all pairs."""
    counts_per_layer: list[int]
    """Reset neurons of each layer."""
    counts_per_module: dict[str, int]
    """Reset neurons of each kind of module (q k v o gate up down)."""
    counts: dict[str, list[int]]
    """Reset neurons by kind of module, then layer."""
    drift: dict[str, float]
    """||sft - base|| / ||base|| by group of tensors: the seven modules, norms, embeddings, all."""
    notes: list[str]
    """Legal differences between the checkpoints and how they were treated."""
    hashes: dict[str, dict[str, str]]
    """xxh3_64 of every weight file of base, sft and output."""
    settings: dict[str, Any]
    """The whole configuration."""
    seed: int
    """Seed of the draw of calibration pairs and of the random reset."""
    seconds: dict[str, float]
    """Wall time by stage, and in all."""
    checkpoints: dict[str, str] = field(default_factory=dict)
    """Names of the directories of base and sft, without their place."""
    drift_by_module: dict[str, list[float | None]] = field(default_factory=dict)
    """||sft - base|| / ||base|| by kind of module, then layer; null where there is no such module. Biases included."""
    neurons: dict[str, list[int]] = field(default_factory=dict)
    """All neurons by kind of module, then layer, as `counts`; empty where the reset was not asked for."""
    entropy_histograms: EntropyHistograms | None = None
    """Tokens by entropy; null without calibration pairs."""
    excerpts: list[Excerpt] = field(default_factory=list)
    """The target tokens that changed most, in their context; empty without calibration pairs."""
    plasticity: dict[str, float] | None = None
    """Sharpness and gradient signal, by names such as `sharpness_sft`: what is measured, then whose weights (base, sft,
    fused, rejuvenated); null where they were not measured."""
    choice: Choice | None = None
    """How alpha or rho was chosen, with every candidate's figures; null where both were given."""

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Report:
        """The report that `to_json` gave these values."""
        plain = dict(values)
        for name in ("entropy_at_targets", "entropy_on_responses"):
            if plain[name] is not None:
                plain[name] = EntropyReport(**plain[name])
        if plain.get("entropy_histograms") is not None:
            plain["entropy_histograms"] = EntropyHistograms.from_json(plain["entropy_histograms"])
        if plain.get("choice") is not None:
            plain["choice"] = Choice.from_json(plain["choice"])
        plain["excerpts"] = [Excerpt.from_json(excerpt) for excerpt in plain.get("excerpts", [])]
        return cls(**plain)

    def save(self, directory: Path) -> None:
        """Write report.json into a checkpoint directory."""
        (directory / REPORT_FILE).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> Report:
        """Read report.json of a rejuvenated checkpoint."""
        return cls.from_json(json.loads((Path(directory) / REPORT_FILE).read_text()))
