"""The method from two checkpoints to one: fuse, score on the SFT checkpoint, unite, reset, write (arXiv 2606.09932)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation.alignment import Alignment
from rejuvenation.answers import greedy_answers
from rejuvenation.blocks import Block, Workspace
from rejuvenation.candidates import Scored, choose_repair
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.choice import Choice
from rejuvenation.diagnostics.material import Reward
from rejuvenation.directories import check_output, weight_bytes
from rejuvenation.drift import DriftMeter, unmeasured
from rejuvenation.excerpts import Excerpt, excerpts
from rejuvenation.fused import Fused
from rejuvenation.fusions import fusions_of
from rejuvenation.histograms import EntropyHistograms
from rejuvenation.needs import Needs
from rejuvenation.neurons import KINDS, NeuronTable
from rejuvenation.page import write_page
from rejuvenation.pairs import TokenPair, draw, load_pairs
from rejuvenation.plasticity import Plasticity
from rejuvenation.repair import Repair
from rejuvenation.report import EntropyReport, Report
from rejuvenation.reset_set import Evidence, reset_set
from rejuvenation.scored_model import entropies, is_language_model, load_model, put_weights, unstored
from rejuvenation.scoring import target_tokens
from rejuvenation.spread import Weights, device_of
from rejuvenation.token_texts import token_texts
from rejuvenation.writer import atomic_directory, write_checkpoint

logger = logging.getLogger(__name__)

NO_BASE = "no base checkpoint was given: base stands for the SFT checkpoint"
"""Note in the report."""


@dataclass(slots=True)
class Measurement:
    """What the scored model gave; empty without calibration pairs."""

    table: NeuronTable | None = None
    selected: torch.Tensor | None = None
    """[neurons] bool, the reset set."""
    targets: list[list[int]] = field(default_factory=list)
    """Per pair the indices of its target tokens in the response."""
    reconstruction_error: float | None = None
    fused: Fused | None = None
    """The fused weights, with what was measured for them."""
    entropies: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    """By checkpoint (base, sft, fused, rejuvenated) and pair: [response tokens], nats."""
    plasticity: dict[str, float] | None = None
    """Sharpness and gradient signal, by what is measured and checkpoint; see `Plasticity.found`."""
    notes: list[str] = field(default_factory=list)
    """What could not be measured."""


def transform(
    base_dir: str | Path | None,
    sft_dir: str | Path,
    out_dir: str | Path,
    config: RejuvenationConfig,
    pairs: Sequence[TokenPair] = (),
    *,
    prompts: Sequence[Sequence[int]] = (),
    source: str | None = None,
    reward: Reward | None = None,
    choice: Choice | None = None,
    scored: Scored | None = None,
    seed: int,
) -> Report:
    """Repair an over-trained SFT checkpoint and write it as an ordinary Hugging Face checkpoint with its report.

    Fusion alone streams the weights; whatever needs calibration pairs holds one model in memory. Nothing appears under
    `out_dir` unless all of it is complete.

    Args:
        base_dir: the checkpoint that SFT started from, or an early one of the same SFT run as the anchor; None where
            no step looks at it (`config.needs_base`).
        sft_dir: the over-trained checkpoint; config, tokenizer, dtypes and shard layout come from it.
        out_dir: must not exist yet, or be empty.
        config: the method's settings.
        pairs: calibration pairs; without any, those of the file `config.calibration` are used, if it is set.
        prompts: token ids; without pairs, the SFT checkpoint's greedy answers to `config.calibration_pairs` of them are
            the pairs. One of the three is needed where neurons are scored (`config.needs_pairs`).
        source: where pairs or prompts were taken from, in words for the report.
        reward: where alpha or rho is `auto`: grades `(index of the prompt, response)`. Without `prompts`, those of the
            calibration pairs are sampled from, and the final answers of their responses are what is right.
        choice: of alpha and rho, if they were chosen already, for the report.
        scored: the reset sets that the choice was made with; None scores the neurons.
        seed: draws the calibration pairs, and what is random in the steps and in the rollouts of a choice.

    Returns:
        The report, also written as report.json and, for people, as report.html with its figures in report_figures/.

    Raises:
        ConfigError: a directory or setting is unusable; says which and what to do.
        ValueError: a tensor of the two checkpoints does not match; the message names it.
    """
    out_dir = Path(out_dir)
    if config.needs_pairs and not pairs and not prompts and config.calibration is None:
        rule = "must be given: the reset scores neurons on prompt-response pairs"
        fix = "Give pairs (a JSONL file), or leave the reset out of rejuvenation.steps for fusion alone."
        raise ConfigError("rejuvenation.calibration", rule, None, fix)
    clock = Clock()
    if base_dir is None and config.needs_base:
        fix = "Give it, or an early SFT checkpoint; or take steps that need none, such as fusion.spectral_clip."
        raise ConfigError("base", "must be given: a step looks at it", None, fix)
    sft = CheckpointReader(sft_dir, "sft")
    base = sft if base_dir is None else CheckpointReader(base_dir, "base")
    check_output(out_dir, [base.directory, sft.directory], weight_bytes(sft.directory, sft.role))
    alignment = Alignment(base, sft)
    for fusion in fusions_of(config, seed):
        fusion.check(sft)
    table = NeuronTable.of(sft) if config.criterion is not None else None
    Needs.of(base, sft, config, scored=bool(pairs or prompts) or config.calibration is not None).check()
    if not pairs and config.calibration is not None:
        pairs = load_pairs(config.calibration, sft_dir)
    notes = []
    if (pairs or prompts) and table is None and not is_language_model(sft.directory):
        notes.append("entropies were not measured: transformers loads no causal language model from the SFT checkpoint")
        pairs, prompts = (), ()
    if not pairs and prompts:
        chosen = draw([TokenPair(list(ids), [0]) for ids in prompts], config.calibration_pairs, seed)
        with clock.stage("answers"):
            pairs = greedy_answers(sft_dir, [pair.prompt_ids for pair in chosen], config)
        drawn_from = f"{len(pairs)} of {len(prompts)} prompts"
        of = f" of {source}" if source else ""
        notes.append(f"calibration pairs: greedy answers of the SFT checkpoint to {drawn_from}{of}")
    elif pairs and source:
        notes.append(f"calibration pairs: {min(len(pairs), config.calibration_pairs)} of {len(pairs)} from {source}")
    drawn = draw(pairs, config.calibration_pairs, seed)
    if config.is_auto:
        with clock.stage("choice"):
            choice, scored = choose_repair(alignment, config, drawn, pairs, prompts, reward, seed)
        config = replace(config, alpha=choice.alpha, rho=choice.rho)
        table = NeuronTable.of(sft) if config.criterion is not None else None
    measurement = Measurement(table)
    if drawn:
        measurement = measure(alignment, config, table, drawn, seed=seed, clock=clock, scored=scored)
    elif table is not None:
        measurement.selected = reset_set(config, table, alignment, None, seed)[0]
    with clock.stage("statistics"):
        fused = measurement.fused or Fused(alignment, config, seed=seed)
    measurement.notes[:0] = notes
    repair, meter = Repair(fused, config, measurement.table, measurement.selected), DriftMeter(alignment)
    workspace = Workspace()

    def rows(block: Block, out: torch.Tensor) -> torch.Tensor:
        """Measure a block and repair it while it is in the cache."""
        return repair.rows(*block, observe=meter.observe, workspace=workspace, out=out)

    with atomic_directory(out_dir) as partial:
        inputs = {base, sft}
        alike = {reader for reader in inputs if reader.shards == sft.shards}
        with clock.stage("write"), hashed_beside(*inputs - alike) as hashes:
            written = write_checkpoint(partial, sft, rows, alike)
        hashes |= written
        report = _report(alignment, config, measurement, meter, drawn, hashes, seed, clock, choice)
        report.save(partial)
        write_page(report, partial)
    return report


@contextmanager
def hashed_beside(*readers: CheckpointReader) -> Iterator[dict[str, dict[str, str]]]:
    """Hash the weight files of checkpoints in a thread of their own; at the end of the block, by role.

    An error in the block, or Ctrl-C, does not wait for the hashing.
    """
    found: dict[str, dict[str, str]] = {}
    stop = threading.Event()
    with ThreadPoolExecutor(max(1, len(readers))) as pool:
        hashing = {reader.role: pool.submit(reader.hashes, stop) for reader in readers}
        try:
            yield found
        except BaseException:
            stop.set()
            raise
        found.update({role: future.result() for role, future in hashing.items()})


def measure(
    alignment: Alignment,
    config: RejuvenationConfig,
    table: NeuronTable | None,
    pairs: Sequence[TokenPair],
    *,
    seed: int,
    clock: Clock,
    scored: Scored | None = None,
) -> Measurement:
    """Find the reset set, and the entropies before and after. Holds one model, filled four times.

    Args:
        alignment: the two checkpoints.
        config: the method's settings.
        table: neurons to choose from; None measures entropies only.
        pairs: calibration pairs, all used.
        seed: of the random reset.
        clock: gets the time of each stage.
        scored: the reset sets, if neurons were scored already.
    """
    result = Measurement(table)
    with clock.stage("load"):
        model = load_model(alignment.sft.directory, config)
    missing = unstored(model, alignment.sft.entries)
    if missing and table is None:  # fusion works all the same
        result.notes.append(f"entropies were not measured: the model computes with {missing[0]}, which is not stored")
        return result
    plasticity = Plasticity(alignment.sft, config, pairs, seed) if config.plasticity else None

    def look(filled: nn.Module, checkpoint: str) -> None:
        """Measure the model that holds a checkpoint's weights."""
        with clock.stage("entropy"):
            result.entropies[checkpoint] = entropies(filled, pairs, checkpoint)
        if plasticity is not None:
            with clock.stage("plasticity"):
                plasticity.add(filled, checkpoint)
            result.plasticity = plasticity.found

    look(model, "sft")
    names = alignment.sft.entries
    put_weights(model, Weights(names, alignment.base_tensor))
    look(model, "base")
    gaps = [sft - base for sft, base in zip(result.entropies["sft"], result.entropies["base"], strict=True)]
    result.targets = [target_tokens(gap, config.target_tokens) for gap in gaps]
    if table is not None and scored is not None:
        result.selected, result.reconstruction_error = scored.selected[config.rho], scored.reconstruction_error
    elif table is not None:
        with clock.stage("attribution"):
            put_weights(model, Weights(names, alignment.sft.tensor))
            evidence = Evidence(model, table, config, alignment, pairs, result.targets)
            result.selected, result.reconstruction_error = reset_set(config, table, alignment, evidence, seed)
    with clock.stage("statistics"):
        result.fused = Fused(alignment, config, seed=seed)
    put_weights(model, Weights(names, result.fused.tensor))
    look(model, "fused")
    result.entropies["rejuvenated"] = result.entropies["fused"]
    if result.selected is not None:
        put_weights(model, Weights(names, Repair(result.fused, config, table, result.selected).tensor))
        look(model, "rejuvenated")
    device = device_of(model)
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()  # other processes share the GPU
    return result


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
    meter: DriftMeter,
    pairs: Sequence[TokenPair],
    hashes: dict[str, dict[str, str]],
    seed: int,
    clock: Clock,
    choice: Choice | None,
) -> Report:
    table, selected = measurement.table, measurement.selected
    total = table.total if table is not None else 0
    num_reset = int(selected.sum()) if selected is not None else 0
    counts: dict[str, list[int]] = {kind: [] for kind in KINDS}
    if table is not None and selected is not None:
        counts = table.counts(selected)
    at_targets = on_responses = None
    shown: list[Excerpt] = []
    if measurement.entropies:
        chosen = {
            name: torch.cat([values[targets] for values, targets in zip(per_pair, measurement.targets, strict=True)])
            for name, per_pair in measurement.entropies.items()
        }
        at_targets = EntropyReport(**{name: values.mean().item() for name, values in chosen.items()})
        on_responses = EntropyReport(
            **{name: torch.cat(values).mean().item() for name, values in measurement.entropies.items()}
        )
        texts = token_texts(alignment.sft.directory)
        shown = excerpts(pairs, measurement.entropies, measurement.targets, texts)
    return Report(
        alpha=config.alpha,
        rho=config.rho,
        steps=config.steps,
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
        drift=meter.by_group(),
        notes=[
            *([NO_BASE] if alignment.base is alignment.sft else []),
            *alignment.notes,
            *unmeasured(alignment),
            *measurement.notes,
        ],
        hashes=hashes,
        settings=asdict(config),
        seed=seed,
        seconds={**clock.seconds, "all": time.perf_counter() - clock.started},
        checkpoints={reader.role: reader.directory.resolve().name for reader in (alignment.base, alignment.sft)},
        drift_by_module=meter.by_module(),
        neurons=table.counts(torch.ones(total, dtype=torch.bool)) if table is not None else {},
        entropy_histograms=EntropyHistograms.of(measurement.entropies, measurement.targets),
        excerpts=shown,
        plasticity=measurement.plasticity,
        choice=choice,
    )
