"""The method from two checkpoints to one: fuse, score on the SFT checkpoint, unite, reset, write (arXiv 2606.09932)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation.alignment import Alignment
from rejuvenation.attribution import Attribution, Attributor, target_tokens
from rejuvenation.blocks import Block
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.directories import check_output, weight_bytes
from rejuvenation.drift import DriftMeter, unmeasured
from rejuvenation.memory import attribution_bytes
from rejuvenation.needs import Needs
from rejuvenation.neurons import KINDS, NeuronTable
from rejuvenation.pairs import TokenPair, draw, load_pairs
from rejuvenation.repair import Repair
from rejuvenation.report import EntropyReport, Report
from rejuvenation.scored_model import entropies, load_model, map_deterministically, put_weights, unstored
from rejuvenation.selection import random_neurons, scopes, top_neurons, union
from rejuvenation.writer import atomic_directory, write_checkpoint

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Measurement:
    """What the scored model gave; empty without calibration pairs."""

    table: NeuronTable | None = None
    selected: torch.Tensor | None = None
    """[neurons] bool, the reset set."""
    targets: list[list[int]] = field(default_factory=list)
    """Per pair the indices of its target tokens in the response."""
    reconstruction_error: float | None = None
    entropies: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    """By checkpoint (base, sft, fused, rejuvenated) and pair: [response tokens], nats."""
    notes: list[str] = field(default_factory=list)
    """What could not be measured."""


def transform(
    base_dir: str | Path,
    sft_dir: str | Path,
    out_dir: str | Path,
    config: RejuvenationConfig,
    pairs: Sequence[TokenPair] = (),
    *,
    seed: int,
) -> Report:
    """Repair an over-trained SFT checkpoint and write it as an ordinary Hugging Face checkpoint with report.json.

    Fusion alone streams the weights; whatever needs calibration pairs holds one model in memory. Nothing appears under
    `out_dir` unless all of it is complete.

    Args:
        base_dir: the checkpoint that SFT started from.
        sft_dir: the over-trained checkpoint; config, tokenizer, dtypes and shard layout come from it.
        out_dir: must not exist yet, or be empty.
        config: the method's settings.
        pairs: calibration pairs; without any, those of the file `config.calibration` are used, if it is set. Needed
            unless nothing is scored (`reset: none`, or rho 0).
        seed: draws the calibration pairs and the random reset.

    Returns:
        The report, also written as report.json.

    Raises:
        ConfigError: a directory or setting is unusable; says which and what to do.
        ValueError: a tensor of the two checkpoints does not match; the message names it.
    """
    out_dir = Path(out_dir)
    scored = config.reset != "none" and config.rho > 0.0
    if scored and not pairs and config.calibration is None:
        rule = "must be given: the reset scores neurons on prompt-response pairs"
        fix = "Give pairs (a JSONL file), or set rejuvenation.reset to none for fusion alone."
        raise ConfigError("rejuvenation.calibration", rule, None, fix)
    clock = Clock()
    base, sft = CheckpointReader(base_dir, "base"), CheckpointReader(sft_dir, "sft")
    check_output(out_dir, [base.directory, sft.directory], weight_bytes(sft.directory, sft.role))
    alignment = Alignment(base, sft)
    table = NeuronTable.of(sft) if scored else None
    Needs.of(base, sft, config, scored=bool(pairs) or config.calibration is not None).check()
    if not pairs and config.calibration is not None:
        pairs = load_pairs(config.calibration, sft_dir)
    drawn = draw(pairs, config.calibration_pairs, seed)
    measurement = Measurement(table)
    if drawn:
        measurement = measure(alignment, config, table, drawn, seed=seed, clock=clock)
    repair, meter = Repair(alignment, config, measurement.table, measurement.selected), DriftMeter(alignment)

    def rows(block: Block) -> torch.Tensor:
        """Measure a block and repair it while it is in the cache."""
        meter.measure(block)
        return repair.rows(*block)

    with atomic_directory(out_dir) as partial:
        with clock.stage("write"), ThreadPoolExecutor(1) as beside:
            hashing = beside.submit(lambda: {"base": base.hashes(), "sft": sft.hashes()})
            written = write_checkpoint(partial, sft, rows)
            hashes = {**hashing.result(), "output": written}
        report = _report(alignment, config, measurement, meter.by_group(), hashes, seed, clock)
        report.save(partial)
    return report


def measure(
    alignment: Alignment,
    config: RejuvenationConfig,
    table: NeuronTable | None,
    pairs: Sequence[TokenPair],
    *,
    seed: int,
    clock: Clock,
) -> Measurement:
    """Find the reset set, and the entropies before and after. Holds one model, filled four times.

    Args:
        alignment: the two checkpoints.
        config: the method's settings.
        table: neurons to choose from; None measures entropies only.
        pairs: calibration pairs, all used.
        seed: of the random reset.
        clock: gets the time of each stage.
    """
    result = Measurement(table)
    with clock.stage("load"):
        model = load_model(alignment.sft.directory, config)
    missing = unstored(model, alignment.sft.entries)
    if missing and table is None:  # fusion works all the same
        result.notes.append(f"entropies were not measured: the model computes with {missing[0]}, which is not stored")
        return result
    with clock.stage("entropy"):
        result.entropies["sft"] = entropies(model, pairs, "sft")
        put_weights(model, alignment.base_items())
        result.entropies["base"] = entropies(model, pairs, "base")
    gaps = [sft - base for sft, base in zip(result.entropies["sft"], result.entropies["base"], strict=True)]
    result.targets = [target_tokens(gap, config.target_tokens) for gap in gaps]
    if table is not None:
        with clock.stage("attribution"):
            put_weights(model, alignment.sft.items())
            result.selected, result.reconstruction_error = reset_set(model, table, config, pairs, result.targets, seed)
    with clock.stage("entropy"):
        put_weights(model, Repair(alignment, config).items())
        result.entropies["fused"] = entropies(model, pairs, "fused")
        result.entropies["rejuvenated"] = result.entropies["fused"]
        if result.selected is not None:
            put_weights(model, Repair(alignment, config, table, result.selected).items())
            result.entropies["rejuvenated"] = entropies(model, pairs, "rejuvenated")
    device = next(model.parameters()).device
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()  # other processes share the GPU
    return result


def reset_set(
    model: torch.nn.Module,
    table: NeuronTable,
    config: RejuvenationConfig,
    pairs: Sequence[TokenPair],
    targets: Sequence[Sequence[int]],
    seed: int,
) -> tuple[torch.Tensor, float]:
    """The neurons to reset (Eq. 4), scored on `model`, which holds the SFT checkpoint.

    Each pair is scored by itself, so the set depends neither on the order of pairs nor on threads, and without a cap
    it only grows with rho and with pairs.

    Returns:
        [neurons] bool, and the largest reconstruction error |z~ - z| over all target tokens.
    """
    ranges = scopes(table, config.ranking)
    votes, adding = torch.zeros(table.total, dtype=torch.int64), threading.Lock()
    with Attributor(model, table, frozen_norm=config.frozen_norm) as attributor:

        def vote(item: tuple[TokenPair, Sequence[int]]) -> float:
            """Add the votes of one pair's targets; return its largest reconstruction error."""
            attribution: Attribution = attributor.scores(*item)
            chosen = top_neurons(attribution.scores, config.rho, ranges, config.score_sign).sum(0)
            with adding:  # whole numbers: in any order they give the same sum
                votes.add_(chosen)
            return (attribution.reconstructed - attribution.logits).abs().max().item()

        weight = next(model.parameters())
        longest, most = max(len(pair.token_ids) for pair in pairs), max(map(len, targets))
        needed = attribution_bytes(model.config, longest, most, max(4, weight.element_size()))
        items = list(zip(pairs, targets, strict=True))
        errors = map_deterministically(vote, items, weight.device, item_bytes=needed)
    selected = union(votes, config.union_cap)
    logger.info("reset set: %d of %d neurons", int(selected.sum()), table.total)
    if config.reset == "random":
        selected = random_neurons(table.total, int(selected.sum()), seed)
    return selected, max(errors)


class Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        logger.info("%s: %.1f s", name, time.perf_counter() - start)


def _report(
    alignment: Alignment,
    config: RejuvenationConfig,
    measurement: Measurement,
    moved: dict[str, float],
    hashes: dict[str, dict[str, str]],
    seed: int,
    clock: Clock,
) -> Report:
    table, selected = measurement.table, measurement.selected
    total = table.total if table is not None else 0
    num_reset = int(selected.sum()) if selected is not None else 0
    counts: dict[str, list[int]] = {kind: [] for kind in KINDS}
    if table is not None and selected is not None:
        counts = table.counts(selected)
    at_targets = on_responses = None
    if measurement.entropies:
        chosen = {
            name: torch.cat([values[targets] for values, targets in zip(per_pair, measurement.targets, strict=True)])
            for name, per_pair in measurement.entropies.items()
        }
        at_targets = EntropyReport(**{name: values.mean().item() for name, values in chosen.items()})
        on_responses = EntropyReport(
            **{name: torch.cat(values).mean().item() for name, values in measurement.entropies.items()}
        )
    return Report(
        alpha=config.alpha,
        rho=config.rho,
        reset=config.reset,
        num_neurons=total,
        num_reset=num_reset,
        effective_ratio=num_reset / total if total else 0.0,
        reconstruction_error=measurement.reconstruction_error,
        entropy_at_targets=at_targets,
        entropy_on_responses=on_responses,
        num_pairs=len(measurement.targets),
        num_target_tokens=sum(len(targets) for targets in measurement.targets),
        counts_per_layer=[sum(layer) for layer in zip(*counts.values(), strict=True)],
        counts_per_module={kind: sum(per_layer) for kind, per_layer in counts.items()},
        counts=counts,
        drift=moved,
        notes=[*alignment.notes, *unmeasured(alignment), *measurement.notes],
        hashes=hashes,
        settings=asdict(config),
        seed=seed,
        seconds={**clock.seconds, "all": time.perf_counter() - clock.started},
    )
