import errno
import os
import subprocess
import sys

import pytest

from configs.rejuvenation import RejuvenationConfig
from rejuvenation import transform
from rejuvenation.writer import atomic_directory
from tests.rejuvenation.tiny import moved, qwen2, save

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


SLOW_TRANSFORM = """
import sys, time
from configs.rejuvenation import RejuvenationConfig
from rejuvenation import repair, transform
rows, seen = repair.Repair.rows, []
def slowly(*args, **kwargs):
    seen.append(1)
    if len(seen) == 20:
        print("half", flush=True)
        time.sleep(120)
    return rows(*args, **kwargs)
repair.Repair.rows = slowly
transform(*sys.argv[1:4], RejuvenationConfig(steps=["fusion.linear"]), seed=0)
"""


def test_transform_that_is_killed_leaves_nothing_and_a_second_start_succeeds(tmp_path):
    base, sft = save(qwen2(0), tmp_path / "in/base"), save(moved(qwen2(0), 1), tmp_path / "in/sft")
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    out = tmp_path / "repaired" / "out"
    code = [sys.executable, "-c", SLOW_TRANSFORM, str(base), str(sft), str(out)]
    process = subprocess.Popen(code, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.wait(60)
    assert not out.exists()
    assert [path.name.startswith(".out.partial-") for path in out.parent.iterdir()] == [True]
    report = transform(base, sft, out, RejuvenationConfig(steps=["fusion.linear"]), seed=0)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert set(report.hashes["output"]) == {"model.safetensors"}
    assert {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()} == before


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """A disk that takes a part of a block and then refuses the rest, as the system's call does."""
    base, sft = save(qwen2(0), tmp_path / "base"), save(moved(qwen2(0), 1), tmp_path / "sft")
    written = []

    def write(descriptor, data, plain=os.write):
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(plain(descriptor, data[: max(1, len(data) // 2)]))
        return written[-1]

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left"):
        transform(base, sft, tmp_path / "out", RejuvenationConfig(steps=["fusion.linear"]), seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "sft"]
    monkeypatch.undo()
    halves = []
    monkeypatch.setattr(
        os, "write", lambda d, data, plain=os.write: halves.append(1) or plain(d, data[: len(data) // 2 + 1])
    )
    transform(base, sft, tmp_path / "parts", RejuvenationConfig(steps=["fusion.linear"]), seed=0)
    monkeypatch.undo()
    transform(base, sft, tmp_path / "whole", RejuvenationConfig(steps=["fusion.linear"]), seed=0)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("parts", "whole")]
    assert files[0] == files[1]
    assert len(halves) > 100, "many short writes"
