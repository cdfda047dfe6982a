"""One process of `make bench-fusion`: the loop of fusion alone, twice in a row, each into an empty place.

Prints the seconds of each, as the report has them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from configs.rejuvenation import RejuvenationConfig
from rejuvenation.pipeline import transform


def main(base: Path, sft: Path, out: Path, alpha: float) -> None:
    """Fuse two checkpoints and delete what was written before, twice."""
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        report = transform(base, sft, out, RejuvenationConfig(steps=("fusion.linear",), alpha=alpha), seed=0)
        print(report.seconds["write"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
