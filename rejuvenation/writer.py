"""Writing a checkpoint directory all at once or not at all, in the SFT checkpoint's own shard layout."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import xxhash

from rejuvenation.blocks import Block, blocks_of, in_order, workers
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.directories import INDEX_FILE

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "chat_template*",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.tiktoken",
    "*.py",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE*",
    "additional_chat_templates",
)
"""What comes along from the SFT checkpoint beside its weights (names or patterns)."""

Rows = Callable[[Block], torch.Tensor]
"""The values of a block, in the dtype they are written in; called from several threads."""


@contextmanager
def atomic_directory(out_dir: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `out_dir` that takes its name at the end, or is removed if anything fails.

    Siblings that killed processes left are removed first: a process holds a lock on its own.
    """
    parent = out_dir.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out_dir.name}.partial-"
    for left in parent.glob(glob.escape(prefix) + "*"):
        if (lock := _lock(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    held = _lock(partial)
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        for path in sorted(partial.rglob("*")):
            _fsync(path)
        _fsync(partial)
        partial.rename(out_dir.resolve())  # replaces an empty directory, fails on any other
        _fsync(parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if held is not None:
            os.close(held)


def write_checkpoint(directory: Path, like: CheckpointReader, rows: Rows) -> dict[str, str]:
    """Write all tensors of `like` with the values that `rows` gives, and the files beside them.

    Files, tensor order, dtypes and headers are those of `like`, byte for byte. Values are computed by as many threads
    as torch has, and hashed and written meanwhile.

    Args:
        directory: an empty directory.
        like: the SFT checkpoint.
        rows: gives the values.

    Returns:
        xxh3_64 of every weight file.
    """
    copy_companions(like.directory, directory)
    if like.sharded:
        shutil.copyfile(like.directory / INDEX_FILE, directory / INDEX_FILE)
    hashes = {}

    def data_of(block: Block) -> memoryview:
        values = rows(block)
        assert values.dtype == like.entries[block.name].dtype, (block.name, values.dtype)
        return memoryview(values.contiguous().reshape(-1).view(torch.uint8).numpy())

    with workers() as pool:
        for shard in like.shards:
            digest = xxhash.xxh3_64(shard.header)
            with (directory / shard.file).open("wb") as file:
                file.write(shard.header)
                for data in in_order(pool, data_of, blocks_of(shard.entries)):
                    digest.update(data)
                    file.write(data)
            hashes[shard.file] = digest.hexdigest()
            expected = (like.directory / shard.file).stat().st_size
            assert (directory / shard.file).stat().st_size == expected, shard.file
    return hashes


def copy_companions(source: Path, target: Path) -> None:
    """Copy config, generation config, chat template, tokenizer and the like."""
    for pattern in COMPANIONS:
        for path in sorted(source.glob(pattern)):
            if path.is_dir():
                shutil.copytree(path, target / path.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, target / path.name)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(directory: Path) -> int | None:
    """Lock a directory for as long as the descriptor returned is open; None where another process has it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
