import subprocess
import sys

import pytest

from rejuvenation.writer import atomic_directory

LEAVES_HALF = """
import os, sys
from pathlib import Path
from rejuvenation.writer import atomic_directory
with atomic_directory(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("x")
    if sys.argv[2] == "die":
        os.kill(os.getpid(), 9)
    print("ready", flush=True)
    input()
"""


def start(out, what):
    return subprocess.Popen(
        [sys.executable, "-c", LEAVES_HALF, str(out), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    assert start(tmp_path / "[out]", "die").wait(60) == -9
    assert [path.name[:15] for path in tmp_path.iterdir()] == [".[out].partial-"]
    with atomic_directory(tmp_path / "[out]") as partial:
        (partial / "whole").write_text("y")
    assert [path.name for path in tmp_path.iterdir()] == ["[out]"]
    assert (tmp_path / "[out]" / "whole").read_text() == "y"


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    process = start(tmp_path / "out", "wait")
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(KeyError), atomic_directory(tmp_path / "out"):
        raise KeyError
    assert len(list(tmp_path.iterdir())) == 1, "ours is removed, the other's is there"
    process.communicate("\n", timeout=60)
    assert (tmp_path / "out" / "half").exists()
