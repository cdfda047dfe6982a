"""Disjoint splits of generated tasks: which split a task belongs to follows from the task itself.

A stable hash (never Python's `hash`, which differs between processes) of the task's key decides, so a task of one split
can never be drawn in another one, whatever the seeds are.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

import numpy as np

SHARES: dict[str, int] = {"train": 70, "heldout": 10, "ood": 10, "tuning": 10}
"""Split -> share of all possible tasks in percent. `tuning` is for choosing settings: `heldout` stays unseen."""


def split_of(key: str) -> str:
    """Return the split that a task with this key belongs to.

    Args:
        key: text that identifies the task, for example the problem as the model sees it.
    """
    bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 100
    for split, share in SHARES.items():
        bucket -= share
        if bucket < 0:
            return split
    raise AssertionError("the shares of the splits do not add up to 100")


def canonical(task: dict[str, Any]) -> str:
    """Return the task as JSON with sorted keys, the same text for equal tasks."""
    return json.dumps(task, sort_keys=True, ensure_ascii=True, allow_nan=False)


def task_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the generator from which task number `index` of a split is drawn: a pure function of its arguments."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])
