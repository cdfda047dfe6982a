"""Plasticity of SFT checkpoints next to their base, measured without RL."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

from configs.diagnosis import DiagnosisConfig
from configs.errors import ConfigError
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.diagnostics.changes import changed_shares
from rejuvenation.diagnostics.ladder_model import LadderModel
from rejuvenation.diagnostics.material import Material, Reward
from rejuvenation.diagnostics.measures import Clock, Measures, measure, needs_model
from rejuvenation.diagnostics.spectrum import rank_of, too_large
from rejuvenation.diagnostics.verdict import Verdict, judge
from rejuvenation.drift import measured, unmeasured
from rejuvenation.pairs import TokenPair

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What SFT did to one checkpoint; null where a diagnostic was not asked for or lacks its data."""

    checkpoint: str
    """The SFT checkpoint's directory."""
    base: Measures
    """Of the base, the same for all checkpoints of a ladder."""
    sft: Measures
    """Of the SFT checkpoint."""
    drift: dict[str, float] | None
    """||sft - base|| / ||base|| by group of tensors: q k v o gate up down, norms, embeddings, other, all."""
    drift_per_tensor: dict[str, float] | None
    """The same by tensor."""
    changed: dict[str, float] | None
    """Share of weights that differ from the base's after the cast to bfloat16, by group."""
    rank_base: dict[str, float] | None
    """Effective rank / full rank of the base's matrices, mean by group."""
    rank_sft: dict[str, float] | None
    """The same of the SFT checkpoint's."""
    rank_delta: dict[str, float] | None
    """The same of sft - base."""
    verdict: Verdict
    """What to do with the checkpoint, and by which numbers."""
    notes: list[str]
    """What was left out and why, and legal differences between the checkpoints."""
    seconds: dict[str, float]
    """Wall time of the comparison of weights, by diagnostic."""

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain JSON values; a number that is not finite becomes null."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


@overload
def diagnose(  # type: ignore[overload-overlap]  # a str is a Sequence of str
    base_dir: str | Path,
    sft_dirs: str | Path,
    pairs: Sequence[TokenPair] = ...,
    *,
    prompts: Sequence[Sequence[int]] | None = ...,
    reward: Reward | None = ...,
    config: DiagnosisConfig | None = ...,
    say: Callable[[str], None] = ...,
) -> Diagnosis: ...


@overload
def diagnose(
    base_dir: str | Path,
    sft_dirs: Sequence[str | Path],
    pairs: Sequence[TokenPair] = ...,
    *,
    prompts: Sequence[Sequence[int]] | None = ...,
    reward: Reward | None = ...,
    config: DiagnosisConfig | None = ...,
    say: Callable[[str], None] = ...,
) -> list[Diagnosis]: ...


def diagnose(
    base_dir: str | Path,
    sft_dirs: str | Path | Sequence[str | Path],
    pairs: Sequence[TokenPair] = (),
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    reward: Reward | None = None,
    config: DiagnosisConfig | None = None,
    say: Callable[[str], None] = logger.info,
) -> Diagnosis | list[Diagnosis]:
    """Measure SFT checkpoints against their base.

    One model is in memory; it is filled with one checkpoint after the other, the base first. The weight files are
    streamed.

    Args:
        base_dir: base checkpoint.
        sft_dirs: one SFT checkpoint of the same architecture, or a ladder of them.
        pairs: prompts and responses, best ones that SFT has not seen; drawn from if there are more than wanted.
        prompts: token ids to sample from; those of `pairs` by default. Drawn from if there are more than wanted.
        reward: grades `(index of the prompt, response text)`; above 0 means solved. None leaves out pass@k and the
            gradient signal.
        config: what to measure, on how much, in how much memory.
        say: is told which checkpoint is measured.

    Returns:
        One diagnosis per checkpoint; not in a list where one directory was given.

    Raises:
        ConfigError: a directory is no checkpoint, or two do not match, or nothing can be measured with what was given,
            or it does not fit into memory.
        ValueError: a tensor does not match, or an entropy or a reward is not finite.
    """
    config = config or DiagnosisConfig()
    directories = [sft_dirs] if isinstance(sft_dirs, str | Path) else list(sft_dirs)
    if not directories:
        raise ConfigError("sft", "must name a checkpoint", directories, "Give at least one directory.")
    reader = CheckpointReader(base_dir, "base")
    ladder = [Alignment(reader, CheckpointReader(directory, "sft")) for directory in directories]
    material = Material.of(ladder[0].sft.directory, pairs, prompts, reward, config)
    notes = material.lacking(config)
    model = LadderModel(ladder[0], config)
    runs = needs_model(material, config)
    say(f"measuring {reader.directory}")
    base = measure(model.base(), material, config, "base") if runs else Measures.none()
    clock = Clock()
    rank_base = None
    if "rank" in config.only:
        with clock.of("rank"):
            rank_base = rank_of(ladder[0], "base", config.rank_max_side)
    base.seconds.update(clock.seconds)
    found = []
    for rung in ladder:
        say(f"measuring {rung.sft.directory}")
        sft = measure(model.sft(rung), material, config, "sft") if runs else Measures.none()
        found.append(_compared(rung, base, sft, rank_base, notes, config))
    return found[0] if isinstance(sft_dirs, str | Path) else found


def _compared(
    rung: Alignment,
    base: Measures,
    sft: Measures,
    rank_base: dict[str, float] | None,
    notes: list[str],
    config: DiagnosisConfig,
) -> Diagnosis:
    """The diagnosis of one checkpoint: its measures, what its weight files say, and the verdict."""
    clock = Clock()
    notes = [*notes, *rung.notes]
    if sft.gradient and not sft.gradient.groups_with_signal:
        notes.append(f"gradient of {rung.sft.directory}: 0, because no group has rewards that differ")
    meter = changed = rank_sft = rank_delta = None
    if "drift" in config.only:
        with clock.of("drift"):
            meter = measured(rung)
        notes += unmeasured(rung)
    if "changes" in config.only:
        with clock.of("changes"):
            changed = changed_shares(rung)
    if "rank" in config.only:
        with clock.of("rank"):
            rank_sft, rank_delta = (rank_of(rung, which, config.rank_max_side) for which in ("sft", "delta"))
        notes += too_large(rung.sft.entries.values(), config.rank_max_side)
    return Diagnosis(
        checkpoint=str(rung.sft.directory),
        base=base,
        sft=sft,
        drift=meter.by_group() if meter else None,
        drift_per_tensor=meter.by_tensor() if meter else None,
        changed=changed,
        rank_base=rank_base,
        rank_sft=rank_sft,
        rank_delta=rank_delta,
        verdict=judge(base, sft, config.verdict),
        notes=notes,
        seconds=clock.seconds,
    )


def _finite(value: Any) -> Any:
    """JSON has no infinity: an overflow under noise must not cost the file."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
