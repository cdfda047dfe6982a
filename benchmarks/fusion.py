"""`make bench-fusion`: fusing two 0.5B bf16 checkpoints, against mergekit and against cp and cat on the same files.

Whole processes are compared with mergekit's `linear` in a virtual environment of its own; the loop that reads, fuses,
measures, hashes and writes is compared, in bytes per second, with `cp` of one checkpoint and `cat` of the other. All
run in turn in one invocation, on files in memory where the machine has room (/dev/shm); the best of eight rounds
counts. Loop and copy start as soon as their last output is deleted, and run twice in a row, since a virtual machine may
hand memory that was free for seconds back to its host; the loop inside the whole process, which starts later, must be
as fast. The two outputs must agree within one unit in the last place at the largest of both terms and their sum:
mergekit divides by the sum of the weights, so that a float32 tie may round to the other side.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import short
from benchmarks.checkpoints import QWEN2_HALF_B, write_synthetic
from orchestrator.run_directory import versions, write_atomic
from rejuvenation.blocks import row_blocks
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.report import Report

ROUNDS = 8
ALPHA = 0.4
MOST_OF_MERGEKIT = 1 / 3
LEAST_OF_COPYING = 0.7
OUTPUT = Path("docs/results/bench-fusion.json")
ABOUT = """# Fusion against mergekit and against copying

Made by `make bench-fusion`: two checkpoints of noise in the shape of Qwen2.5-0.5B (bf16, tied), fusion alone with
alpha {alpha}, float32 arithmetic. Whole process: seconds over those of mergekit {mergekit} (`linear`); ours hashes both
inputs and the output and writes its report. Loop: bytes read and written per second over those of `cp` and `cat` on the
same files; each starts as soon as its last output is deleted, twice in a row (the loop in one process, whose start does
not count). The loop inside the whole process starts seconds after a deletion, when a virtual machine may have handed
that memory back to its host: its figure says how the machine is, too. The best of eight rounds counts on
each side; the output differs from mergekit's by at most one unit in the last place at max(|alpha sft|,
|(1 - alpha) base|, |sum|).

| what | ratio | required | commit |
|---|---|---|---|
"""


def main() -> None:
    """Measure, compare the outputs, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mergekit", type=Path, required=True, help="a virtual environment with mergekit")
    parser.add_argument("--folder", type=Path, default=None, help="where to put 6 GB for the time being")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    in_memory = Path("/dev/shm")
    folder = options.folder or (in_memory if in_memory.is_dir() and shutil.disk_usage(in_memory).free > 8e9 else None)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        result = measure(Path(name), options.mergekit)
    save(result, options.output)
    missed = [what for what, row in rows(result).items() if not holds(*row)]
    if missed:
        raise SystemExit("not as required: " + ", ".join(missed))


def measure(folder: Path, mergekit: Path) -> dict[str, Any]:
    """Seconds of every side in every round."""
    base, sft = (write_synthetic(folder / name, QWEN2_HALF_B, seed=seed) for seed, name in enumerate(("base", "sft")))
    recipe = folder / "recipe.yml"
    recipe.write_text(
        json.dumps(
            {
                "merge_method": "linear",
                "dtype": "float32",
                "out_dtype": "bfloat16",
                "models": [
                    {"model": str(base), "parameters": {"weight": 1 - ALPHA}},
                    {"model": str(sft), "parameters": {"weight": ALPHA}},
                ],
            }
        )
    )
    ours, theirs, copied, looped = (folder / name for name in ("ours", "theirs", "copied", "looped"))
    transform = [sys.executable, "-m", "rejuvenation", "transform", "--base", base, "--sft", sft, "--out", ours]
    loop = [sys.executable, "-m", "benchmarks.fusion_loop", base, sft, looped, ALPHA]
    sides = ("ours", "loop in ours", "loop", "mergekit", "copy")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(1 + ROUNDS):
        for path in (ours, theirs):
            shutil.rmtree(path, ignore_errors=True)
        copies = []
        for _ in range(2):
            shutil.rmtree(copied, ignore_errors=True)
            copies.append(timed(f"cp -r {sft} {copied} && cat {base}/*.safetensors > /dev/null")[0])
        seconds["copy"].append(min(copies))
        seconds["loop"].append(min(map(float, timed(loop)[1].split())))
        seconds["ours"].append(timed([*transform, "--steps", "fusion.linear", "--alpha", ALPHA])[0])
        seconds["loop in ours"].append(Report.load(ours).seconds["write"])
        arguments = [mergekit / "bin/mergekit-yaml", recipe, theirs, "--no-copy-tokenizer", "--no-lazy-unpickle"]
        seconds["mergekit"].append(timed([*arguments, "--out-shard-size", "5B"])[0])
    compare(base, sft, ours, theirs)
    assert Report.load(looped).hashes == Report.load(ours).hashes, "the loop alone did not do the same"
    version = subprocess.run(
        [mergekit / "bin/python", "-c", "from importlib.metadata import version; print(version('mergekit'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    best = {name: min(values[1:]) for name, values in seconds.items()}  # the first round warms up
    return {
        "seconds": best,
        "rounds": seconds,
        "whole process": best["ours"] / best["mergekit"],
        "loop": best["copy"] / best["loop"],
        "loop in the whole process": best["copy"] / best["loop in ours"],
        "mergekit": version,
        "threads": len(os.sched_getaffinity(0)),
        "commit": versions()["git"] or "unknown",
    }


def timed(command: Any) -> tuple[float, str]:
    """Seconds that a command takes, its start included, and what it prints."""
    shell = isinstance(command, str)
    start = time.perf_counter()
    done = subprocess.run(
        command if shell else list(map(str, command)), shell=shell, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, done.stdout


def compare(base_dir: Path, sft_dir: Path, ours_dir: Path, theirs_dir: Path) -> None:
    """Refuse outputs that differ by more than one unit in the last place of bfloat16."""
    base, sft, ours, theirs = map(CheckpointReader, (base_dir, sft_dir, ours_dir, theirs_dir))
    assert theirs.entries.keys() == ours.entries.keys()
    for name in theirs.entries:
        for rows in row_blocks(ours.entries[name], 1 << 24):
            values = [reader.rows(name, *rows).float() for reader in (base, sft, ours, theirs)]
            largest = torch.stack([(1 - ALPHA) * values[0], ALPHA * values[1], values[3]]).abs().amax(0)
            unit = torch.ldexp(
                torch.ones_like(largest), torch.frexp(largest.clamp_min(2.0**-126)).exponent - 8
            )  # of bfloat16
            if not ((values[2] - values[3]).abs() <= unit).all():
                raise SystemExit(f"{name}: the two outputs differ by more than one unit in the last place")


def rows(result: dict[str, Any]) -> dict[str, tuple[float, float, bool]]:
    """What -> ratio, bound, whether it is the most allowed."""
    return {
        "whole process, seconds over mergekit's": (result["whole process"], MOST_OF_MERGEKIT, True),
        "loop, bytes per second over cp and cat": (result["loop"], LEAST_OF_COPYING, False),
        "the loop inside the whole process, likewise": (result["loop in the whole process"], LEAST_OF_COPYING, False),
    }


def holds(ratio: float, bound: float, most: bool) -> bool:
    """Whether a ratio is as required."""
    return ratio <= bound if most else ratio >= bound


def save(result: dict[str, Any], path: Path) -> None:
    """Write the result as JSON and its ratios as a table beside it, and print them."""
    lines = []
    for what, (ratio, bound, most) in rows(result).items():
        required = f"{'at most' if most else 'at least'} {bound:.2f}"
        print(f"{what}: {ratio:.2f} ({required})")
        held = "" if holds(ratio, bound, most) else ", missed"
        lines.append(f"| {what} | {ratio:.2f} | {required}{held} | {short(result['commit'])} |\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(result, indent=1) + "\n")
    about = ABOUT.format(alpha=ALPHA, mergekit=result["mergekit"])
    write_atomic(path.with_suffix(".md"), about + "".join(lines))


if __name__ == "__main__":
    main()
