"""Checkpoints in blocks of rows: small enough for a core's cache, computed side by side, used in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

from rejuvenation.checkpoint import TensorEntry

BLOCK_BYTES = 1 << 20
"""Stored size of a block at most, where a row is not larger: its float32 copies then stay in a core's cache, and
memory does not grow with the tensor."""
AHEAD = 8
"""Blocks under way at once."""

Result = TypeVar("Result")


class Block(NamedTuple):
    """Rows [start, stop) of one tensor."""

    name: str
    start: int
    stop: int


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


@contextmanager
def workers(count: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute on one core, as many as torch has: no result depends on how many there are.

    Torch splits a reduction among its threads, and the rounding with it; here it has one while the block lasts.

    Args:
        count: threads; by default those of torch.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count or threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Block], Result], blocks: Iterable[Block]
) -> Iterator[Result]:
    """Apply `function` to blocks side by side and give the results in their order, `AHEAD` under way at once."""
    waiting: deque[Future[Result]] = deque()
    try:
        for block in blocks:
            waiting.append(pool.submit(function, block))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
