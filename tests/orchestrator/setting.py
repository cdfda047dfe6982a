"""A small run on pico checkpoints, shared by the integration tests."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from configs.loader import load
from configs.run import RunConfig
from tests.pico import make_checkpoint

ENVIRONMENT = "tests.orchestrator.relay:Relay"

OVERRIDES = [
    "seed=3",
    f"environment.id={ENVIRONMENT}",
    "evaluation.sets=[{name: heldout, tasks: 4, kwargs: {split: heldout}}]",
    "evaluation.samples=2",
    "evaluation.k=2",
    "algorithm.prompts_per_step=4",
    "algorithm.group_size=4",
    "algorithm.minibatches=2",
    "rejuvenation.calibration_pairs=6",
    "learner.lr=1e-3",
    "learner.micro_batch_tokens=512",
    "rollout.max_model_len=640",
    "rollout.max_tokens=12",
    "rollout.max_num_seqs=32",
    "rollout.kv_cache_bytes=33554432",
    "rollout.deterministic=true",
    "cluster.object_store_bytes=100000000",
    "cluster.bucket_bytes=200000",
    "logging.tensorboard=false",
]


def make_pair(folder: Path, **shape: object) -> tuple[Path, Path]:
    """Write a base and an SFT checkpoint."""
    base, sft = folder / "base", folder / "sft"
    if not base.exists():
        for seed, directory in enumerate((base, sft)):
            make_checkpoint(directory, seed=seed, **shape)  # type: ignore[arg-type]
            end_turns_more_often(directory)
    return base, sft


def end_turns_more_often(directory: Path) -> None:
    """Make the end-of-turn logit large in either direction, so that random policies finish many of their turns."""
    tensors = load_file(directory / "model.safetensors")
    eos = json.loads((directory / "config.json").read_text())["eos_token_id"]
    tensors["model.embed_tokens.weight"][eos] *= 4
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def overrides(folder: Path, run_dir: Path, *extra: str) -> list[str]:
    """Command-line overrides of a small run."""
    base, sft = make_pair(folder)
    return [*OVERRIDES, f"model.base={base}", f"model.sft={sft}", f"run_dir={run_dir}", *extra]


def small_run(folder: Path, run_dir: Path, *extra: str) -> RunConfig:
    """The configuration of a small run."""
    return load([], overrides(folder, run_dir, *extra))
