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

from rejuvenation.blocks import BLOCK_BYTES, Block, blocks_of, in_order, workers
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

Rows = Callable[[Block, torch.Tensor], torch.Tensor]
"""The values of a block, in the dtype they are written in; called from several threads. They may be put into the tensor
given, which is like the block."""


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

    for shard in like.shards:
        digest = xxhash.xxh3_64(shard.header)
        with (directory / shard.file).open("wb", buffering=0) as file, workers() as pool:
            write_all(file.fileno(), memoryview(shard.header))
            blocks = BlockBytes(like, rows)
            for data, buffer in in_order(pool, blocks, blocks_of(shard.entries)):
                digest.update(data)
                write_all(file.fileno(), data)
                blocks.free.append(buffer)
        hashes[shard.file] = digest.hexdigest()
        expected = (like.directory / shard.file).stat().st_size
        assert (directory / shard.file).stat().st_size == expected, shard.file
    return hashes


def write_all(descriptor: int, data: memoryview) -> None:
    """Append bytes to a file; a full disk may take a part of them before it refuses the rest."""
    while data:
        data = data[os.write(descriptor, data) :]


class BlockBytes:
    """Computes the bytes of blocks, from several threads; gives back the buffer they lie in, to be used again.

    One thread writes them: a file system lets one at a time write to a file, and others would spin.

    Args:
        like: the SFT checkpoint.
        rows: gives the values.
    """

    def __init__(self, like: CheckpointReader, rows: Rows) -> None:
        self.like, self.rows = like, rows
        self.free: list[torch.Tensor] = []
        """Buffers to use again."""

    def __call__(self, block: Block) -> tuple[memoryview, torch.Tensor]:
        """The bytes of one block, and the buffer."""
        entry = self.like.entries[block.name]
        shape = (block.stop - block.start, *entry.shape[1:]) if entry.shape else ()
        size = torch.Size(shape).numel() * entry.dtype.itemsize
        buffer = self._buffer(size)
        values = self.rows(block, buffer[:size].view(entry.dtype).view(shape))
        assert values.dtype == entry.dtype, (block.name, values.dtype)
        return memoryview(values.contiguous().reshape(-1).view(torch.uint8).numpy()), buffer

    def _buffer(self, size: int) -> torch.Tensor:
        """A buffer of at least `size` bytes."""
        try:
            buffer = self.free.pop()
        except IndexError:
            buffer = torch.empty(0, dtype=torch.uint8)
        return buffer if len(buffer) >= size else torch.empty(max(size, BLOCK_BYTES), dtype=torch.uint8)


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
