"""Records of a dataset: JSON lines, a Parquet file, or a dataset of the Hugging Face library `datasets`."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from envs.conversation import KWARGS

HUGGING_FACE = "hf:"
"""What `path` begins with where it names a dataset of `datasets`: `hf:OWNER/NAME` or `hf:FOLDER`."""


def read_records(path: str, dataset_split: str, dataset_config: str | None) -> Iterator[tuple[str, Any]]:
    """Read a dataset.

    Args:
        path: file of JSON lines, file that ends in `.parquet`, or `hf:` and what `datasets.load_dataset` takes; `~` is
            the home directory of the process that reads.
        dataset_split: split of a Hugging Face dataset.
        dataset_config: configuration of a Hugging Face dataset that has several.

    Yields:
        Where the record stands (`line 3`) and the record, a dict of columns where the line is well-formed.

    Raises:
        ConfigError: no such file or dataset, a line that is no JSON, or the library that reads it is not installed.
    """
    if path.startswith(HUGGING_FACE):
        yield from _hugging_face(path, dataset_split, dataset_config)
        return
    file = Path(os.path.expanduser(path))  # Path.expanduser raises where there is no such home directory
    if not file.is_file():
        fix = "Give the path of a JSONL or Parquet file with one question and answer a row."
        raise ConfigError(KWARGS + "path", "must be a file", path, fix)
    yield from (_parquet(file, path) if file.suffix == ".parquet" else _json_lines(file, path))


def _json_lines(file: Path, path: str) -> Iterator[tuple[str, Any]]:
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                rule = f"must hold JSON on line {number} ({error})"
                raise ConfigError(KWARGS + "path", rule, path, "Correct or remove that line.") from error
            yield f"line {number}", record


def _parquet(file: Path, path: str) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise _missing("pyarrow", path) from error
    try:
        number = 0
        for batch in ParquetFile(file).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"row {number}", record
    except ArrowInvalid as error:
        raise ConfigError(KWARGS + "path", f"must be a Parquet file ({error})", path, "Write it anew.") from error


def _hugging_face(path: str, split: str, config: str | None) -> Iterator[tuple[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise _missing("datasets", path) from error
    try:
        with quiet_hub():  # what the last try says is raised
            rows = load_dataset(os.path.expanduser(path.removeprefix(HUGGING_FACE)), config, split=split)
    except Exception as error:  # no network, no such dataset, no such split: the library has many errors for it
        rule = f"must name a dataset with a split {split!r} that can be loaded ({error})"
        fix = f"Check the name, and {KWARGS}dataset_split and dataset_config."
        raise ConfigError(KWARGS + "path", rule, path, fix) from error
    for number, record in enumerate(rows, start=1):
        yield f"row {number}", dict(record)


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Let `huggingface_hub` report errors alone, not every try to reach the hub."""
    with contextlib.suppress(ImportError):
        importlib.import_module("huggingface_hub.utils.logging")  # which sets the level, too
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _missing(package: str, path: str) -> ConfigError:
    """Return the error for a library that is not installed."""
    fix = "Install the extra `data` (pip install -e '.[data]' in the checkout), or convert the data to JSONL."
    return ConfigError(KWARGS + "path", f"needs the package {package} to be read", path, fix)
