"""Rebuild a toy from code alone: `python -m examples.toy.build math` (README.md here says how long that takes)."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers.utils import logging

from examples.toy.ladder import LADDERS, climb
from examples.toy.pretrain import pretrain


def main() -> None:
    """Pretrain the base model, climb the SFT ladder, and write the checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=LADDERS)
    parser.add_argument("--out", type=Path, required=True, help="directory of base, sft_mod and sft_over")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--base-steps", type=int, help="pretraining steps, for trying things out (default: the task's)")
    parser.add_argument("--base", type=Path, help="a base checkpoint to start from in place of pretraining one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()  # files of 1.5 MB
    base = options.base or options.out / "base"
    if options.base is None:
        pretrain(options.task, base, options.base_steps)
    climb(options.task, base, {name: options.out / name for name in ("sft_mod", "sft_over")})


if __name__ == "__main__":
    main()
