from __future__ import annotations

import signal
import threading
import time

import pytest
import torch

from rejuvenation.blocks import TAKEN_AHEAD, Block, ahead, in_order, workers

BLOCKS = [Block("weight", number, number + 1) for number in range(40)]


def uneven(block: Block) -> int:
    """Every third block takes longer, so that later ones are ready first."""
    time.sleep(0.004 if block.start % 3 == 0 else 0.0)
    return block.start


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_used_once_each_in_order_by_one_thread_at_a_time(threads: int) -> None:
    used: list[int] = []
    using = threading.Lock()

    def use(result: int) -> None:
        assert using.acquire(blocking=False), "two threads use results at once"
        used.append(result)
        using.release()

    with workers(threads) as pool:
        in_order(pool, uneven, use, iter(BLOCKS))
    assert used == list(range(40))


def test_computing_goes_on_while_a_result_is_used_but_not_far_ahead() -> None:
    begun: list[int] = []
    first_is_used = threading.Event()

    def compute(block: Block) -> int:
        begun.append(block.start)
        return block.start

    def use(result: int) -> None:
        if result == 0:
            assert not first_is_used.wait(0.2)
            assert len(begun) == ahead(2) < len(BLOCKS), "two for each thread, at least four"
            first_is_used.set()

    with workers(2) as pool:
        in_order(pool, compute, use, BLOCKS)
    assert len(begun) == len(BLOCKS)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_blocks_are_taken_one_at_a_time_and_not_far_ahead(threads: int) -> None:
    taken, most = 0, 0
    taking = threading.Lock()
    used: list[int] = []

    def blocks():
        nonlocal taken, most
        for block in BLOCKS:
            assert taking.acquire(blocking=False), "two threads take blocks at once"
            taken += 1
            most = max(most, taken - len(used))
            time.sleep(0.0005)
            taking.release()
            yield block

    with workers(threads) as pool:
        in_order(pool, uneven, used.append, blocks())
    assert used == list(range(40))
    assert most <= TAKEN_AHEAD + ahead(threads)


def test_one_thread_goes_on_taking_blocks_while_the_other_computes() -> None:
    taken = 0
    enough = threading.Event()

    def blocks():
        nonlocal taken
        for block in BLOCKS:
            taken += 1
            if taken == TAKEN_AHEAD:
                enough.set()
            yield block

    def compute(block: Block) -> int:
        assert enough.wait(10), "the thread that takes blocks computes one instead"
        return block.start

    used: list[int] = []
    with workers(2) as pool:
        in_order(pool, compute, used.append, blocks())
    assert used == list(range(40))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("place", ["compute", "use", "blocks"])
def test_an_error_ends_all_threads_and_is_raised(threads: int, place: str) -> None:
    used: list[int] = []

    def blocks():
        yield from BLOCKS[:10]
        if place == "blocks":
            raise OSError("disk is full")
        yield from BLOCKS[10:]

    def compute(block: Block) -> int:
        if place == "compute" and block.start == 10:
            raise OSError("disk is full")
        return uneven(block)

    def use(result: int) -> None:
        if place == "use" and result == 10:
            raise OSError("disk is full")
        used.append(result)

    with pytest.raises(OSError, match="disk is full"), workers(threads) as pool:
        in_order(pool, compute, use, blocks())
    assert used == list(range(len(used))), "in order, nothing after the error"
    assert len(used) <= 10 or place == "blocks"
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_ctrl_c_ends_all_threads(threads: int) -> None:
    used: list[int] = []

    def use(result: int) -> None:
        used.append(result)
        if result == 20:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    many = [Block("weight", number, number + 1) for number in range(2000)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt), workers(threads) as pool:
            in_order(pool, uneven, use, many)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(used) < len(many)


def test_no_blocks_are_no_work() -> None:
    with workers(2) as pool:
        in_order(pool, uneven, pytest.fail, [])
