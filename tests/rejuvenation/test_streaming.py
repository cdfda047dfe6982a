"""Check 11: private memory of the streamed transform stays under a bound that does not grow with the checkpoint."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.checkpoints import QWEN2_3B, QWEN2_7B, QWEN2_HALF_B, Shape, write_synthetic

BOUND_MB = 600
PROGRAM = """
import sys, threading, time
from pathlib import Path

def private():  # anonymous memory: mapped file pages are not counted
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

peak, over = [0.0], threading.Event()
def watch():
    while not over.wait(0.002):
        peak[0] = max(peak[0], private())
watcher = threading.Thread(target=watch)
watcher.start()
from configs.rejuvenation import RejuvenationConfig
from rejuvenation import transform
transform(*sys.argv[1:4], RejuvenationConfig(steps=["fusion.linear"]), seed=0)
over.set()
watcher.join()
print(peak[0])
"""


def peak_mb(folder: Path, shape: Shape, shard_bytes: int) -> float:
    """Largest private memory of a process that fuses two checkpoints of this shape, in MB; the smaller of two runs.

    What a process holds beside its blocks (freed memory that the allocator keeps) differs by some MB between runs.
    """
    base, sft = (
        write_synthetic(folder / name, shape, seed=seed, shard_bytes=shard_bytes)
        for seed, name in enumerate(("base", "sft"))
    )
    peaks = []
    for _ in range(2):
        command = [sys.executable, "-c", PROGRAM, str(base), str(sft), str(folder / "out")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        peaks.append(float(done.stdout))
        shutil.rmtree(folder / "out")
    shutil.rmtree(folder)  # gigabytes
    return min(peaks)


def test_memory_of_fusion_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    small = Shape(hidden=128, layers=2, heads=4, kv_heads=2, intermediate=352, vocab=151_936)
    large = Shape(hidden=512, layers=4, heads=8, kv_heads=4, intermediate=1344, vocab=151_936)
    peaks = [peak_mb(tmp_path / str(number), shape, 50_000_000) for number, shape in enumerate((small, large))]
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < BOUND_MB


@pytest.mark.slow
def test_memory_of_fusion_at_real_sizes(tmp_path: Path) -> None:
    """0.5B with its 151,936-row embedding under the bound; 7B, or 3B on a small disk, less than 10 % above it."""
    room = shutil.disk_usage(tmp_path).free > 50e9
    half = peak_mb(tmp_path / "half", QWEN2_HALF_B, 5_000_000_000)
    large = peak_mb(tmp_path / "large", QWEN2_7B if room else QWEN2_3B, 5_000_000_000)
    print(f"private memory: 0.5B {half:.0f} MB, {'7B' if room else '3B'} {large:.0f} MB")
    assert half < BOUND_MB
    assert large < 1.1 * half
