"""Reading a Hugging Face checkpoint directory lazily: one safetensors file, or many shards with an index."""

from __future__ import annotations

import json
import math
import mmap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from rejuvenation.directories import SINGLE_FILE, check_checkpoint, read_json, weight_map

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
HASHED_BYTES = 1 << 22
"""Bytes hashed at once."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies, without its values."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str
    """Name of the shard that holds it."""
    offset: int
    """First byte after the shard's header."""

    @property
    def numel(self) -> int:
        """Numbers it holds."""
        return torch.Size(self.shape).numel()

    @property
    def num_rows(self) -> int:
        """Rows; 0 of a scalar, which is read whole."""
        return self.shape[0] if self.shape else 0


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file: its header, byte for byte, and its tensors in the order of their bytes."""

    file: str
    header: bytes
    entries: tuple[TensorEntry, ...]


def read_shard(path: Path) -> Shard:
    """Read the header of one safetensors file.

    Raises:
        ValueError: the file is no safetensors file, or holds a dtype that torch lacks.
    """
    with path.open("rb") as file:
        length = file.read(8)
        size = int.from_bytes(length, "little")
        if len(length) < 8 or size > path.stat().st_size - 8:
            raise ValueError(f"{path} is no complete safetensors file: its header is cut off. Copy or save it again.")
        header = length + file.read(size)
    try:
        described = json.loads(header[8:])
    except ValueError as error:
        raise ValueError(f"{path} is no safetensors file: its header is broken ({error}). Copy it again.") from error
    entries: list[TensorEntry] = []
    last = 0
    for name, entry in described.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: tensor {name} has dtype {entry['dtype']}, which cannot be read here.")
        offset, end = entry["data_offsets"]
        entries.append(TensorEntry(name, tuple(entry["shape"]), DTYPES[entry["dtype"]], path.name, offset))
        if end - offset != entries[-1].numel * entries[-1].dtype.itemsize:
            raise ValueError(f"{path}: tensor {name} takes {end - offset} bytes, which is not its size. Copy it again.")
        last = max(last, end)
    if len(header) + last != path.stat().st_size:
        raise ValueError(
            f"{path} holds {path.stat().st_size} bytes where its header asks for {len(header) + last}: it is cut off "
            "or damaged. Copy or save it again."
        )
    # Empty tensors share their offset with a neighbour; the name makes the order total.
    return Shard(path.name, header, tuple(sorted(entries, key=lambda entry: (entry.offset, entry.name))))


def _cut(entry: TensorEntry, start: int, stop: int) -> tuple[int, tuple[int, ...]]:
    """First row and shape of the rows [start, stop) that there are; of a scalar, all of it."""
    if not entry.shape:
        return 0, ()
    start, stop = max(0, start), min(stop, entry.shape[0])
    return start, (max(0, stop - start), *entry.shape[1:])


class CheckpointReader:
    """The tensors of a checkpoint directory, read when asked for.

    Args:
        directory: holds config.json and model.safetensors, or shards with model.safetensors.index.json.
        role: the field a user gave the directory by (`base`, `sft`); errors name it.

    Raises:
        ConfigError: the directory is no safetensors checkpoint, or its config.json or index is broken.
        ValueError: a shard is damaged, or the index and the shards do not agree.
    """

    def __init__(self, directory: str | Path, role: str = "checkpoint") -> None:
        self.directory = Path(directory)
        self.role = role
        check_checkpoint(self.directory, role)
        self.config: dict[str, Any] = read_json(self.directory / "config.json", role)
        self._weight_map = weight_map(self.directory, role)
        files = sorted(set(self._weight_map.values())) or [SINGLE_FILE]
        self.shards = tuple(read_shard(self.directory / file) for file in files)
        self.entries: dict[str, TensorEntry] = {}
        for shard in self.shards:
            for entry in shard.entries:
                if entry.name in self.entries:
                    first = self.entries[entry.name].file
                    raise ValueError(f"{self.directory}: tensor {entry.name} is in both {first} and {entry.file}.")
                self.entries[entry.name] = entry
        self._check_index()
        self._mapped: dict[str, tuple[mmap.mmap, int]] = {}
        self._opening = threading.Lock()

    def _check_index(self) -> None:
        for name, file in self._weight_map.items():
            if name not in self.entries or self.entries[name].file != file:
                raise ValueError(f"{self.directory}: the index places tensor {name} in {file}, which lacks it.")

    @property
    def sharded(self) -> bool:
        """Whether an index lists the shards."""
        return bool(self._weight_map)

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of one tensor; the whole of it where it has no dimension.

        The result may be a view of the mapped file that later reads share: never write into it.
        """
        entry = self.entries[name]
        start, shape = _cut(entry, start, stop)
        count = math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=entry.dtype)
        mapped, offset = self._map(entry.file)
        offset += entry.offset + start * math.prod(entry.shape[1:]) * entry.dtype.itemsize
        return torch.frombuffer(mapped, dtype=entry.dtype, count=count, offset=offset).view(shape)

    def row_bytes(self, name: str, start: int, stop: int) -> memoryview:
        """The bytes of `rows`, as the file holds them."""
        entry = self.entries[name]
        start, shape = _cut(entry, start, stop)
        mapped, offset = self._map(entry.file)
        offset += entry.offset + start * math.prod(entry.shape[1:]) * entry.dtype.itemsize
        return memoryview(mapped)[offset : offset + math.prod(shape) * entry.dtype.itemsize]

    def _map(self, file: str) -> tuple[mmap.mmap, int]:
        """A shard in memory as the system pages it in, and where its tensors begin.

        The mapping is private: a write would stay in this process and never reach the file.
        """
        found = self._mapped.get(file)
        if found is None:
            with self._opening, (self.directory / file).open("rb") as opened:  # rows are read by several threads
                size = next(len(shard.header) for shard in self.shards if shard.file == file)
                found = self._mapped.setdefault(file, (mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY), size))
        return found

    def tensor(self, name: str) -> torch.Tensor:
        """One whole tensor."""
        return self.rows(name, 0, self.entries[name].num_rows)

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor with its name, in the order of the files."""
        for name in self.entries:
            yield name, self.tensor(name)

    def hashes(self, stop: threading.Event | None = None) -> dict[str, str]:
        """xxh3_64 of every weight file, in hexadecimal.

        Args:
            stop: once set, the hashing ends within a block.

        Raises:
            InterruptedError: `stop` was set.
        """
        found = {}
        for shard in self.shards:
            digest, mapped = xxhash.xxh3_64(), memoryview(self._map(shard.file)[0])
            for begin in range(0, len(mapped), HASHED_BYTES):
                if stop is not None and stop.is_set():
                    raise InterruptedError("the hashing was stopped")
                digest.update(mapped[begin : begin + HASHED_BYTES])
            found[shard.file] = digest.hexdigest()
        return found
