"""What is asked of input and output directories; light, so that a wrong path is said before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def check_checkpoint(directory: Path, role: str) -> None:
    """Refuse a directory that is no safetensors checkpoint.

    Args:
        directory: a checkpoint directory as a user gave it.
        role: the field it was given by (`base`, `sft`).

    Raises:
        ConfigError: config.json or the weights are missing.
    """
    if not (directory / "config.json").is_file():
        fix = "Give the path of a Hugging Face checkpoint; download a hub model first (hf download NAME)."
        raise ConfigError(role, "must be a checkpoint directory with a config.json", str(directory), fix)
    if not (directory / SINGLE_FILE).is_file() and not (directory / INDEX_FILE).is_file():
        rule = f"must hold {SINGLE_FILE} or {INDEX_FILE} with its shards"
        fix = "Save the checkpoint with save_pretrained(..., safe_serialization=True)."
        raise ConfigError(role, rule, str(directory), fix)


def check_output(out_dir: Path, inputs: Sequence[Path]) -> None:
    """Refuse an output directory that would overwrite something.

    Raises:
        ConfigError: it lies in an input directory, is a file, or is not empty.
    """
    resolved = out_dir.resolve()
    for directory in inputs:
        if resolved == directory.resolve() or directory.resolve() in resolved.parents:
            rule = f"must not lie in the input directory {directory}"
            raise ConfigError("out", rule, str(out_dir), "Choose a directory of its own.")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        fix = "Remove it, or choose another name."
        raise ConfigError("out", "must not exist yet, or be an empty directory", str(out_dir), fix)
