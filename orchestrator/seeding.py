"""Seeds: every random choice of a run is a pure function of the one top-level seed and of what the choice is for."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**31) for `purpose`, stable over processes, machines and Python versions.

    Args:
        seed: the run's top-level seed.
        purpose: what the seed is for, for example `("rollout", step, group, sample, turn)`.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
