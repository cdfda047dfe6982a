"""What a repair did, as numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    """Settings, measurements and cost of one `transform`."""

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
        return cls(**plain)

    def save(self, directory: Path) -> None:
        """Write report.json into a checkpoint directory."""
        (directory / REPORT_FILE).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> Report:
        """Read report.json of a rejuvenated checkpoint."""
        return cls.from_json(json.loads((Path(directory) / REPORT_FILE).read_text()))
