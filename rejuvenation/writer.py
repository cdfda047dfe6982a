"""Writing a checkpoint directory all at once or not at all, in the SFT checkpoint's own shard layout."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import xxhash

from rejuvenation.blocks import Block, Buffers, blocks_of, in_order, workers
from rejuvenation.checkpoint import CheckpointReader, Shard
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


def write_checkpoint(
    directory: Path, like: CheckpointReader, rows: Rows, hashed: Collection[CheckpointReader] = ()
) -> dict[str, dict[str, str]]:
    """Write all tensors of `like` with the values that `rows` gives, and the files beside them.

    Files, tensor order, dtypes and headers are those of `like`, byte for byte. Values are computed by as many threads
    as torch has, and hashed and written meanwhile.

    Args:
        directory: an empty directory.
        like: the SFT checkpoint.
        rows: gives the values.
        hashed: checkpoints whose files are laid out as those of `like`, itself perhaps among them: their bytes are
            hashed while they are in the cache.

    Returns:
        xxh3_64 of every weight file, of `output` and by the role of each of `hashed`.
    """
    copy_companions(like.directory, directory)
    if like.sharded:
        shutil.copyfile(like.directory / INDEX_FILE, directory / INDEX_FILE)
    hashes: dict[str, dict[str, str]] = {"output": {}, **{reader.role: {} for reader in hashed}}
    for shard in like.shards:
        path = directory / shard.file
        with path.open("wb", buffering=0) as file, workers() as pool:
            output = ShardWriter(file.fileno(), shard, like, rows, hashed)
            in_order(pool, output.compute, output.write, output.blocks())
        for role, digest in output.digests.items():
            hashes[role][shard.file] = digest.hexdigest()
        assert path.stat().st_size == (like.directory / shard.file).stat().st_size, shard.file
    return hashes


def write_all(descriptor: int, data: memoryview) -> None:
    """Append bytes to a file; a full disk may take a part of them before it refuses the rest."""
    while data:
        data = data[os.write(descriptor, data) :]


class OutBuffer(Buffers):
    """Memory for the values of one block."""

    def __init__(self) -> None:
        super().__init__()
        self._values: torch.Tensor | None = None
        self._bytes = memoryview(b"")

    def bytes_of(self, values: torch.Tensor) -> memoryview:
        """The bytes of a tensor, without a copy where it is contiguous; kept for the next values in the same place."""
        if values is not self._values:
            self._values = values
            self._bytes = memoryview(values.contiguous().reshape(-1).view(torch.uint8).numpy())
        return self._bytes


class ShardWriter:
    """Computes the bytes of blocks, from several threads, and writes them, from one thread at a time.

    A file system lets no more than one write to a file, and others would spin.

    Args:
        descriptor: of the file, opened for writing and empty.
        shard: its header and blocks.
        like: the SFT checkpoint.
        rows: gives the values.
        hashed: see `write_checkpoint`.
    """

    def __init__(
        self, descriptor: int, shard: Shard, like: CheckpointReader, rows: Rows, hashed: Collection[CheckpointReader]
    ) -> None:
        self.descriptor, self.like, self.rows, self.hashed = descriptor, like, rows, hashed
        self.entries = shard.entries
        self.digests = {role: xxhash.xxh3_64(shard.header) for role in ("output", *(reader.role for reader in hashed))}
        self._free: list[OutBuffer] = []
        """To be used again."""
        write_all(descriptor, memoryview(shard.header))

    def blocks(self) -> Iterator[Block]:
        """The blocks in order, each hashed when it is taken: that brings it from memory faster than arithmetic does."""
        for block in blocks_of(self.entries):
            for reader in self.hashed:
                self.digests[reader.role].update(reader.row_bytes(*block))
            yield block

    def compute(self, block: Block) -> tuple[memoryview, OutBuffer]:
        """The bytes of a block, and where they lie."""
        entry = self.like.entries[block.name]
        shape = (block.stop - block.start, *entry.shape[1:]) if entry.shape else ()
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = OutBuffer()
        values = self.rows(block, buffer.empty("out", shape, entry.dtype))
        assert values.dtype == entry.dtype, (block.name, values.dtype)
        return buffer.bytes_of(values), buffer

    def write(self, computed: tuple[memoryview, OutBuffer]) -> None:
        """Hash and write the bytes of a block."""
        data, buffer = computed
        self.digests["output"].update(data)
        write_all(self.descriptor, data)
        self._free.append(buffer)


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
