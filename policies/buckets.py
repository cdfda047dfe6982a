"""Weights in flight: named tensors packed into byte buckets with a version and a checksum, whatever carries them.

A tensor is never split: one larger than `bucket_bytes` gets a bucket of its own. Unpacked tensors are views of the
bucket's bytes, so unpacking copies nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

ALIGNMENT = 64  # bytes; lets a view of any dtype start at any entry


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies in a bucket."""

    name: str
    """Name of the tensor in a Hugging Face checkpoint."""
    dtype: str
    """Name of the torch dtype (`bfloat16`)."""
    shape: tuple[int, ...]
    offset: int
    """First byte in the bucket."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some tensors of one version of the weights."""

    version: int
    """policy_version of the weights."""
    index: int
    """Number of the bucket within the version, from 0."""
    entries: tuple[Entry, ...]
    data: np.ndarray
    """[size_bytes] uint8, contiguous."""
    checksum: str
    """xxh3_64 over version, index, entries and data, in hexadecimal."""

    def to_message(self) -> dict[str, Any]:
        """Return the bucket in plain types, for carriers that know only those."""
        return {**asdict(self), "data": self.data.tobytes()}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Bucket:
        """Return the bucket that `to_message` wrote."""
        entries = tuple(Entry(**{**entry, "shape": tuple(entry["shape"])}) for entry in message["entries"])
        return cls(**{**message, "entries": entries, "data": np.frombuffer(message["data"], dtype=np.uint8)})


def pack(named: Iterable[tuple[str, Tensor]], bucket_bytes: int, version: int = 0) -> Iterator[Bucket]:
    """Yield buckets of at most `bucket_bytes` (or of one larger tensor), in the order of `named`.

    Each tensor is copied before the next is asked for, so a gathered parameter may be released in between.

    Args:
        named: checkpoint names and tensors, on any device.
        bucket_bytes: size of a bucket in bytes.
        version: policy_version of the weights.
    """
    if bucket_bytes < 1:
        raise ValueError(f"bucket_bytes must be >= 1, got {bucket_bytes}")
    index, used = 0, 0
    buffer = np.empty(0, dtype=np.uint8)
    entries: list[Entry] = []
    for name, tensor in named:
        size = tensor.numel() * tensor.element_size()
        offset = -(-used // ALIGNMENT) * ALIGNMENT
        if entries and offset + size > len(buffer):
            yield _close(version, index, entries, buffer[:used])
            index, entries = index + 1, []
        if not entries:
            offset, buffer = 0, np.zeros(max(bucket_bytes, size), dtype=np.uint8)
        entry = Entry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), offset)
        _view(buffer, entry).copy_(tensor.detach())
        entries.append(entry)
        used = offset + size
    if entries:
        yield _close(version, index, entries, buffer[:used])


def unpack(bucket: Bucket) -> list[tuple[str, Tensor]]:
    """Return the tensors of `bucket` as views of its bytes; they are to be read only.

    Raises:
        RuntimeError: the checksum of what arrived is not the one that was sent.
    """
    found = _checksum(bucket.version, bucket.index, bucket.entries, bucket.data)
    if found != bucket.checksum:
        raise RuntimeError(
            f"weight bucket {bucket.index} of version {bucket.version} ({len(bucket.data)} bytes) arrived corrupted: "
            f"expected checksum {bucket.checksum}, found {found}"
        )
    return [(entry.name, _view(bucket.data, entry)) for entry in bucket.entries]


def _view(data: np.ndarray, entry: Entry) -> Tensor:
    dtype = getattr(torch, entry.dtype)
    if entry.size_bytes == 0:
        return torch.empty(entry.shape, dtype=dtype)
    with warnings.catch_warnings():  # shared memory is read-only, which torch can only warn about
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        flat = torch.from_numpy(data[entry.offset : entry.offset + entry.size_bytes])
    return flat.view(dtype).view(entry.shape)


def _close(version: int, index: int, entries: list[Entry], data: np.ndarray) -> Bucket:
    return Bucket(version, index, tuple(entries), data, _checksum(version, index, tuple(entries), data))


def _checksum(version: int, index: int, entries: tuple[Entry, ...], data: np.ndarray) -> str:
    digest = xxhash.xxh3_64(repr((version, index, entries)).encode())
    digest.update(data.data)
    return digest.hexdigest()
