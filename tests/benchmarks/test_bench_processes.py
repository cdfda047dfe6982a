import os

from benchmarks.processes import main, proportional_bytes
from envs.process_tree import descendants
from tests.ended import ended


def test_it_measures_every_cost_and_leaves_no_process():
    before, lines = set(descendants(os.getpid())), []
    main(["--steps", "10", "--processes", "2", "--no-actor"], lines.append)
    assert [line.partition(" ms")[0].rsplit(maxsplit=1)[0] for line in lines[:2]] == [
        "step in a thread",
        "step in a process",
    ]
    assert "MiB   (2 at once)" in lines[-1]
    assert ended(set(descendants(os.getpid())) - before) == []


def test_memory_that_processes_share_counts_once():
    assert 0 < proportional_bytes([os.getpid()]) < 1 << 34
