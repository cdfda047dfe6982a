"""Advantages from the rewards of one group, by name.

Legend: G rollouts per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Advantage = Callable[[Sequence[float], Sequence[Any]], list[float]]
"""`(rewards [G], group [G] trajectories) -> advantages [G]`."""

EPS = 1e-6
"""Keeps the division defined where rewards differ by rounding only."""


def grpo(rewards: Sequence[float], group: Sequence[Any] = ()) -> list[float]:
    """`(r - mean) / (std + EPS)` with the population's standard deviation (GRPO, arXiv 2402.03300, Eq. 3 ff.)."""
    centred, spread = _centred(rewards)
    return [float(c / (spread + EPS)) for c in centred]


def dr_grpo(rewards: Sequence[float], group: Sequence[Any] = ()) -> list[float]:
    """`r - mean`: no division, which favours neither easy nor hard prompts (Dr. GRPO, arXiv 2503.20783, section 3)."""
    return [float(c) for c in _centred(rewards)[0]]


def _centred(rewards: Sequence[float]) -> tuple[np.ndarray, float]:
    """Rewards minus their mean, and their standard deviation; exact zeros where all rewards are equal."""
    values = np.asarray(rewards, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"rewards must be finite, got {list(rewards)}: check the environment's verifier")
    if values.size == 0 or (values == values[0]).all():  # the mean of equal numbers may be off by a rounding
        return np.zeros_like(values), 0.0
    return values - values.mean(), float(values.std())


ADVANTAGES: dict[str, Advantage] = {"grpo": grpo, "dr_grpo": dr_grpo}
"""Advantage functions by the name in `algorithm.name`."""
