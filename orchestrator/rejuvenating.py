"""Rejuvenation worker: makes the starting checkpoint and hands it on, file by file and bucket by bucket."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from configs.auto import AUTO
from configs.checkpoint import is_hub_name
from configs.environment import EnvironmentConfig
from configs.errors import ConfigError
from configs.model import ModelConfig
from configs.rejuvenation import RejuvenationConfig
from orchestrator.demonstrations import demonstrations
from orchestrator.parcel import Parcel, read_small_files
from orchestrator.tool_forms import with_tool_form
from orchestrator.transport import Transport, publish


class Request(NamedTuple):
    """What neurons are scored for."""

    model: ModelConfig
    rejuvenation: RejuvenationConfig
    environment: EnvironmentConfig
    seed: int

    def leads_to(self, settled: Request) -> bool:
        """Whether the other is this one with numbers where this has `auto`: reset sets made for it then hold.

        Workers are reused by one run after the other, and a run may fail between its choice and its repair.
        """
        ours = self.rejuvenation
        chosen = {name: getattr(settled.rejuvenation, name) for name in ("alpha", "rho") if getattr(ours, name) == AUTO}
        return self._replace(rejuvenation=replace(ours, **chosen)) == settled


class RejuvenationWorker:
    """Transforms or reads a checkpoint where it lies; constructible without Ray."""

    def __init__(self, transport: Transport, bucket_bytes: int) -> None:
        self.transport = transport
        self.bucket_bytes = bucket_bytes
        self._tried: tuple[Request, Any] | None = None  # the candidates, with what they were made from

    def files(self, model: ModelConfig) -> dict[str, bytes]:
        """Config and tokenizer of the policy: those of the checkpoint whose weights (or their repair) RL starts from.

        Engines are set up with them, learners and exports get them: vocabularies and templates may differ between base
        and SFT checkpoint.
        """
        return read_small_files(resolve(model.base if model.start == "base" else model.sft))

    def prepare(
        self,
        model: ModelConfig,
        rejuvenation: RejuvenationConfig,
        environment: EnvironmentConfig,
        output: str,
        seed: int,
        choice: dict[str, Any] | None = None,
    ) -> Parcel:
        """What a run starts from: the rejuvenated checkpoint (written to `output`), or `sft` or `base` as they are.

        `choice`: how alpha or rho was chosen, for the report.
        """
        tried, self._tried = self._tried, None
        report: dict[str, Any] = {}
        if model.start == "rejuvenated":
            base, sft = resolve(model.base), resolve(model.sft)
            directory = output
            if not (Path(output) / "report.json").exists():  # there already when a run resumes
                from rejuvenation import transform
                from rejuvenation.choice import Choice

                found = calibration(rejuvenation, environment, sft)
                chosen = None if choice is None else Choice.from_json(choice)
                scored, now = None, Request(model, rejuvenation, environment, seed)
                if tried is not None and chosen is not None and tried[0].leads_to(now):
                    scored = tried[1].scored
                transform(base, sft, output, rejuvenation, **found, choice=chosen, scored=scored, seed=seed)
            report = read_report(output)
        else:
            directory = resolve(model.sft if model.start == "sft" else model.base)
        return Parcel(self.files(model), self._put(directory), report)

    def candidate(
        self,
        model: ModelConfig,
        rejuvenation: RejuvenationConfig,
        environment: EnvironmentConfig,
        seed: int,
        alpha: float,
        rho: float,
    ) -> tuple[list[Any], float]:
        """Publish the repair by one alpha and rho, without writing it; neurons are scored at the first call.

        Returns:
            Handles of its buckets, and the share of all neurons that it resets.
        """
        asked = Request(model, rejuvenation, environment, seed)
        if self._tried is None or self._tried[0] != asked:
            self._tried = None
            base, sft = resolve(model.base), resolve(model.sft)
            self._tried = (asked, scored_candidates(rejuvenation, environment, base, sft, seed))
        candidates = self._tried[1]
        named = candidates.weights(alpha, rho).items()
        return publish(self.transport, named, self.bucket_bytes, version=0), candidates.reset_ratio(rho)

    def read(self, location: str) -> Parcel:
        """Any checkpoint as it is."""
        directory = resolve(location)
        return Parcel(read_small_files(directory), self._put(directory))

    def _put(self, directory: str) -> list[Any]:
        return publish(self.transport, read_tensors(directory), self.bucket_bytes, version=0)


def resolve(location: str) -> str:
    """A checkpoint's local directory: itself, or a hub name's snapshot (downloaded; safetensors only, never code)."""
    if not is_hub_name(location):
        return os.path.abspath(location)
    from huggingface_hub import snapshot_download

    return snapshot_download(location, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"])


def read_tensors(directory: str) -> Iterator[tuple[str, Any]]:
    """Names and tensors of a checkpoint directory, one at a time."""
    from safetensors import safe_open

    for file in weight_files(Path(directory)):
        with safe_open(file, framework="pt") as handle:
            for name in sorted(handle.keys()):
                yield name, handle.get_tensor(name)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a checkpoint's weights; other *.safetensors beside them (adapters, say) are passed over.

    Returns:
        model.safetensors, as transformers and `rejuvenation` read it, else the shards that its index lists, else the
        only *.safetensors.

    Raises:
        ConfigError: a listed shard is missing, or there is neither an index nor a single file.
    """
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        files = [directory / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            rule = f"must hold every shard that {index.name} lists ({missing[0]} is missing)"
            raise ConfigError("checkpoint", rule, str(directory), "Copy the checkpoint again.")
        return files
    found = sorted(directory.glob("*.safetensors"))
    if len(found) != 1:
        rule = f"must hold {single.name}, {index.name} with its shards, or one *.safetensors"
        raise ConfigError("checkpoint", rule, f"{len(found)} in {directory}", "Save the checkpoint again.")
    return found


def read_report(directory: str) -> dict[str, Any]:
    """The report that `rejuvenation.transform` left beside the checkpoint."""
    return json.loads((Path(directory) / "report.json").read_text())


def scored_candidates(
    rejuvenation: RejuvenationConfig, environment: EnvironmentConfig, base: str, sft: str, seed: int
) -> Any:
    """The repairs that `auto` may take, with the reset set of each rho."""
    from rejuvenation.alignment import Alignment
    from rejuvenation.candidates import Candidates
    from rejuvenation.checkpoint import CheckpointReader
    from rejuvenation.pairs import draw
    from rejuvenation.scored_model import load_model

    candidates = Candidates(Alignment(CheckpointReader(base, "base"), CheckpointReader(sft, "sft")), rejuvenation, seed)
    model, pairs = None, []
    if rejuvenation.needs_pairs:
        found = pairs_of(calibration(rejuvenation, environment, sft), rejuvenation, sft)
        pairs = draw(found, rejuvenation.calibration_pairs, seed)
        model = load_model(Path(sft), rejuvenation)
    candidates.score(model, pairs)
    return candidates


def pairs_of(found: dict[str, Any], config: RejuvenationConfig, sft: str) -> list[Any]:
    """The pairs that `transform` makes of what `calibration` found."""
    from rejuvenation import load_pairs
    from rejuvenation.answers import greedy_answers

    if config.calibration is not None:
        return load_pairs(config.calibration, sft)
    return found["pairs"] if "pairs" in found else greedy_answers(sft, found["prompts"], config)


def calibration(config: RejuvenationConfig, environment: EnvironmentConfig, sft: str) -> dict[str, Any]:
    """On what neurons are scored, as arguments of `transform`, whose report says it (method: calibration pairs).

    `rejuvenation.calibration` if given; else the environment's demonstrations on its training tasks, one pair per
    assistant turn; else the training prompts, for greedy answers of the SFT checkpoint.
    """
    from policies.rendering import load_renderer

    if config.calibration is not None:
        return {}
    renderer = load_renderer(sft)
    shown = demonstrations(with_tool_form(environment, renderer.tool_template), config.calibration_pairs)
    pairs = [
        pair
        for demonstration in shown
        if demonstration.messages
        for pair in turn_pairs(*renderer.training_example(demonstration.messages, demonstration.tools))
    ]
    if pairs:  # `transform` draws `calibration_pairs` of them by seed
        return {"pairs": pairs, "source": f"the demonstrations of {environment.id} on {len(shown)} training tasks"}
    prompts = [renderer.prompt(demonstration.opening, demonstration.tools) for demonstration in shown]
    return {"prompts": prompts, "source": f"the training tasks of {environment.id}"}


def turn_pairs(token_ids: list[int], loss_mask: list[int]) -> list[Any]:
    """One pair per assistant turn of a rendered conversation: all tokens before it, and its own."""
    from rejuvenation import TokenPair

    pairs = []
    edges = [t for t in range(1, len(loss_mask)) if loss_mask[t] != loss_mask[t - 1]] + [len(loss_mask)]
    for start, end in itertools.pairwise(edges):
        if loss_mask[start]:
            pairs.append(TokenPair(token_ids[:start], token_ids[start:end]))
    return pairs
