"""Checkpoints in blocks of rows: small enough for a core's cache, computed side by side, used in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

from rejuvenation.checkpoint import TensorEntry

BLOCK_BYTES = 1 << 20
"""Stored size of a block at most, where a row is not larger: its float32 copies then stay in a core's cache, and
memory does not grow with the tensor."""

Result = TypeVar("Result")


class Block(NamedTuple):
    """Rows [start, stop) of one tensor."""

    name: str
    start: int
    stop: int


class Workspace(threading.local):
    """Each thread's own buffers, used again for every block: fresh memory costs a page fault for every 4 KiB."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def empty(self, slot: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor whose values are whatever the slot last held; a later call for the slot gives the same memory."""
        count = torch.Size(shape).numel()
        buffer = self._buffers.get((slot, dtype))
        if buffer is None or len(buffer) < count:
            buffer = self._buffers[slot, dtype] = torch.empty(count, dtype=dtype)
        return buffer[:count].view(shape)

    def copy(self, slot: str, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A copy of `values` in a dtype."""
        return self.empty(slot, values.shape, dtype).copy_(values)


def ahead(threads: int) -> int:
    """Blocks under way at once: two for each thread, so that none waits for the one that takes the results."""
    return max(4, 2 * threads)


def blocks_of(entries: Iterable[TensorEntry]) -> Iterator[Block]:
    """The blocks of tensors, in order."""
    for entry in entries:
        for start, stop in row_blocks(entry):
            yield Block(entry.name, start, stop)


def row_blocks(entry: TensorEntry, block_bytes: int | None = None) -> Iterator[tuple[int, int]]:
    """Split a tensor's rows into blocks [start, stop) of `BLOCK_BYTES` or the bytes given, in order."""
    if not entry.shape:
        yield 0, 1
        return
    num_rows = entry.shape[0]
    row_bytes = max(1, torch.Size(entry.shape[1:]).numel() * entry.dtype.itemsize)
    step = max(1, (block_bytes or BLOCK_BYTES) // row_bytes)
    for start in range(0, num_rows, step):
        yield start, min(start + step, num_rows)


class Workers(ThreadPoolExecutor):
    """Threads that each compute on one core.

    Args:
        count: threads.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count, initializer=torch.set_num_threads, initargs=(1,))
        self.ahead = ahead(count)


def assemble(entry: TensorEntry, rows: Callable[[str, int, int], torch.Tensor]) -> torch.Tensor:
    """A whole tensor from the blocks that `rows` gives: what they take beside it stays small."""
    if not entry.shape:
        return rows(entry.name, 0, 1)
    whole = torch.empty(entry.shape, dtype=entry.dtype)
    for start, stop in row_blocks(entry):
        whole[start:stop] = rows(entry.name, start, stop)
    return whole


@contextmanager
def workers(count: int | None = None) -> Iterator[Workers]:
    """Threads that each compute on one core, as many as torch has: no result depends on how many there are.

    Torch splits a reduction among its threads, and the rounding with it; here it has one while the block lasts.

    Args:
        count: threads; by default those of torch.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Workers(count or threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def in_order(pool: Workers, function: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
    """Apply `function` to blocks side by side and give the results in their order, some blocks ahead."""
    waiting: deque[Future[Result]] = deque()
    try:
        for block in blocks:
            waiting.append(pool.submit(function, block))
            if len(waiting) == pool.ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
