"""Checkpoints in blocks of rows: small enough for a core's cache, computed side by side, used in order."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import torch

from rejuvenation.checkpoint import TensorEntry

BLOCK_BYTES = 1 << 20
"""Stored size of a block at most, where a row is not larger: its float32 copies then stay in a core's cache, and
memory does not grow with the tensor."""
TAKEN_AHEAD = 16
"""Blocks taken before they are computed, at most: so many that the thread which takes blocks and uses results seldom
has to compute too."""

Result = TypeVar("Result")
Step = Callable[[], None]


class Block(NamedTuple):
    """Rows [start, stop) of one tensor."""

    name: str
    start: int
    stop: int


class Buffers:
    """Memory that is used again for every block: fresh memory costs a page fault for every 4 KiB.

    Views are kept too: threads that compute hand the interpreter's lock over with every call of torch, and blocks of
    one tensor have one shape.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        self._views: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def empty(self, slot: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor whose values are whatever the slot last held; a later call for the slot gives the same memory."""
        view = self._views.get((slot, dtype))
        if view is not None and view.shape == shape:
            return view
        count = math.prod(shape)
        buffer = self._buffers.get((slot, dtype))
        if buffer is None or len(buffer) < count:
            buffer = self._buffers[slot, dtype] = torch.empty(count, dtype=dtype)
        self._views[slot, dtype] = view = buffer[:count].view(tuple(shape))
        return view

    def copy(self, slot: str, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A copy of `values` in a dtype."""
        return self.empty(slot, values.shape, dtype).copy_(values)


class Workspace(threading.local, Buffers):
    """Each thread's own buffers."""


def ahead(threads: int) -> int:
    """Blocks whose results are under way at once: two for each thread, so that none waits for those to be used."""
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
        self.count = count


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


def in_order(
    pool: Workers, compute: Callable[[Block], Result], use: Callable[[Result], object], blocks: Iterable[Block]
) -> None:
    """Apply `compute` to blocks side by side, and `use` to the results one at a time, in the order of the blocks.

    Blocks, too, are taken from their iterator one at a time, by one of the threads.

    Raises:
        BaseException: what was raised first; the other threads end with the step at hand.
    """
    line = _Line(compute, use, blocks, ahead(pool.count))
    try:
        for future in [pool.submit(line.work, first=number == 0) for number in range(pool.count)]:
            future.result()
    except BaseException as error:
        line.fail(error)
        raise
    if line.failure is not None:
        raise line.failure


class _Line(Generic[Result]):
    """Blocks between `compute` and `use`; see `in_order`.

    One thread takes blocks and uses results as long as there is something to take or use, the others compute. Each
    helps with the rest when its own work runs out.
    """

    def __init__(
        self,
        compute: Callable[[Block], Result],
        use: Callable[[Result], object],
        blocks: Iterable[Block],
        most: int,
    ) -> None:
        self.compute, self.use, self.most = compute, use, most
        self.failure: BaseException | None = None
        self._blocks = iter(blocks)
        self._taken: deque[Block] = deque()
        self._computed: dict[int, Result] = {}
        self._begun = self._used = 0
        """Blocks that are or were computed, and results used."""
        self._taking = self._ended = self._using = False
        self._changed = threading.Condition()

    def work(self, *, first: bool) -> None:
        """Take, compute and use until all is used, or something failed.

        Args:
            first: whether this is the thread that computes only where there is nothing else to do.
        """
        use, take = (self._can_use, self._claim_use), (self._can_take, self._claim_take)
        compute = (self._can_compute, self._claim_compute)
        steps = (use, take, compute) if first else (compute, use, take)
        try:
            while (step := self._next(steps)) is not None:
                step()
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Let all threads end."""
        with self._changed:
            self.failure = self.failure or error
            self._changed.notify_all()

    def _next(self, steps: Sequence[tuple[Callable[[], bool], Callable[[], Step]]]) -> Step | None:
        """Claim the first of the steps that can be done, once there is one; None at the end.

        A thread comes here after whatever it changes, so that it is enough to wake one other for what is left.
        """
        with self._changed:
            while self.failure is None and not (self._ended and self._used == self._begun and not self._taken):
                for can, claim in steps:
                    if can():
                        step = claim()
                        if any(can() for can, _ in steps):
                            self._changed.notify()
                        return step
                self._changed.wait()
            self._changed.notify_all()
            return None

    def _can_take(self) -> bool:
        return not (self._taking or self._ended) and len(self._taken) < TAKEN_AHEAD

    def _can_compute(self) -> bool:
        return bool(self._taken) and self._begun - self._used < self.most

    def _can_use(self) -> bool:
        return not self._using and self._used in self._computed

    def _claim_take(self) -> Step:
        self._taking = True

        def step() -> None:
            block = next(self._blocks, None)
            with self._changed:
                self._taking = False
                if block is None:
                    self._ended = True
                else:
                    self._taken.append(block)

        return step

    def _claim_compute(self) -> Step:
        number, block = self._begun, self._taken.popleft()
        self._begun += 1

        def step() -> None:
            result = self.compute(block)
            with self._changed:
                self._computed[number] = result

        return step

    def _claim_use(self) -> Step:
        result = self._computed.pop(self._used)
        self._using = True

        def step() -> None:
            self.use(result)
            with self._changed:
                self._using = False
                self._used += 1

        return step
