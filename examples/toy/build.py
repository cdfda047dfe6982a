"""Rebuild the math toy from code alone: `python -m examples.toy.build` (see README.md here for the time it takes)."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from examples.toy.ladder import MODERATE_STEPS, OVER_STEPS, climb
from examples.toy.pretrain import STEPS, pretrain

HERE = Path(__file__).parent


def main() -> None:
    """Pretrain the base model, climb the SFT ladder, and write the checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=HERE / "math", help="directory of the checkpoints (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--base-steps", type=int, default=STEPS, help="pretraining steps (default: %(default)s)")
    parser.add_argument("--keep-base", action="store_true", help="take the base checkpoint that is there")
    parser.add_argument("--moderate", action="store_true", help="also write the moderate SFT checkpoint, sft_mod")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.keep_base:
        pretrain(options.out / "base", options.base_steps)
    rungs = {OVER_STEPS: options.out / "sft_over"}
    if options.moderate:
        rungs[MODERATE_STEPS] = options.out / "sft_mod"
    climb(options.out / "base", rungs)


if __name__ == "__main__":
    main()
