"""A checkpoint on its way between processes: its small files as bytes, its weights as handles of buckets."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


@dataclass(slots=True)
class Parcel:
    """What a learner group and the engines need of a checkpoint; needs no shared file system."""

    files: dict[str, bytes]
    """The checkpoint's small files by name (never code, never weights)."""
    handles: list[Any]
    """Handles of the weight buckets, in order."""
    report: dict[str, Any] = field(default_factory=dict)
    """The rejuvenation's report; empty for a checkpoint that was taken as it is."""


def read_small_files(directory: str | Path) -> dict[str, bytes]:
    """The small files that a checkpoint directory holds."""
    return {name: (Path(directory) / name).read_bytes() for name in SMALL_FILES if (Path(directory) / name).is_file()}


def write_small_files(files: dict[str, bytes], directory: str | Path | None = None) -> str:
    """Write small files into `directory`, or into a new temporary one of this node; returns its path."""
    target = Path(directory or tempfile.mkdtemp(prefix="rejuvenate-model-"))
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        assert name in SMALL_FILES, name
        (target / name).write_bytes(content)
    return str(target)
