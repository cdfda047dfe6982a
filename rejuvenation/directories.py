"""What is asked of input and output directories; light, so that a wrong path is said before torch is imported."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def check_output(out_dir: Path, inputs: Sequence[Path], size_bytes: int) -> None:
    """Refuse an output directory that would overwrite something or cannot be written.

    Args:
        out_dir: as a user gave it.
        inputs: directories that stay as they are.
        size_bytes: what will be written.

    Raises:
        ConfigError: it lies in an input directory, is a file, a mount point or not empty, or lies where writing is not
            allowed or where the disk is too full.
    """
    resolved = out_dir.resolve()
    for directory in inputs:
        if resolved == directory.resolve() or directory.resolve() in resolved.parents:
            rule = f"must not lie in the input directory {directory}"
            raise ConfigError("out", rule, str(out_dir), "Choose a directory of its own.")
    if os.path.ismount(resolved):
        rule = "must not be a mount point: the finished directory takes its name by renaming"
        raise ConfigError("out", rule, str(out_dir), "Choose a directory below it.")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        fix = "Remove it, or choose another name."
        raise ConfigError("out", "must not exist yet, or be an empty directory", str(out_dir), fix)
    parent = next(path for path in resolved.parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        rule = f"must lie in a directory where you may write; {parent} is none"
        raise ConfigError("out", rule, str(out_dir), "Choose another place, or change its permissions.")
    free = shutil.disk_usage(parent).free
    if free < size_bytes:
        rule = f"must lie on a disk with room for the weights: {size_bytes:,} bytes are needed, {free:,} are free"
        raise ConfigError("out", rule, str(out_dir), "Make room, or choose a directory on another disk.")


def read_json(path: Path, role: str) -> dict[str, Any]:
    """Read a JSON object that belongs to the checkpoint a user gave as `role`.

    Raises:
        ConfigError: the file holds something else.
    """
    rule, fix = f"must hold a JSON object in {path}", "Copy or save the checkpoint again."
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(role, rule, str(error), fix) from error
    if not isinstance(value, dict):
        raise ConfigError(role, rule, value, fix)
    return value


def weight_map(directory: Path, role: str) -> dict[str, str]:
    """Name of the shard of every tensor, as the index lists it; empty where one file holds them all.

    Raises:
        ConfigError: the index is broken, or a shard that it lists is missing.
    """
    if (directory / SINGLE_FILE).is_file():
        return {}
    path = directory / INDEX_FILE
    files = read_json(path, role).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        rule = f"must list the file of every tensor under weight_map in {path}"
        raise ConfigError(role, rule, files, "Copy or save the checkpoint again.")
    missing = [file for file in sorted(set(files.values())) if not (directory / file).is_file()]
    if missing:
        rule = f"must hold every shard its index lists; {missing[0]} is missing"
        raise ConfigError(role, rule, str(directory), "Copy the checkpoint again.")
    return files


def weight_bytes(directory: Path, role: str) -> int:
    """Size of a checkpoint's weight files.

    Raises:
        ConfigError: as `weight_map`.
    """
    files = set(weight_map(directory, role).values()) or {SINGLE_FILE}
    return sum((directory / file).stat().st_size for file in files)
