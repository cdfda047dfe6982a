"""Standard errors, and 95 % confidence intervals over tasks that hold for few tasks and near 0 and 1.

The normal approximation and the bootstrap are far too narrow there, and of no width where all tasks agree (Bowyer et
al. 2025, arXiv 2503.01747). Both functions are closed formulas without resampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.bootstrap import Interval
from rejuvenation.diagnostics.statistics import standard_error

Z = 1.959964
"""97.5 % quantile of the standard normal distribution."""


def proportion(values: Sequence[float], samples: int = 1) -> Interval:
    """Wilson's score interval (1927) of the mean over tasks.

    Of values that are 0 or 1 it is the ordinary one, which Brown, Cai and DasGupta recommend (2001, Statistical Science
    16(2)). Of shares of several samples, tasks are clusters of episodes: the number of tasks is replaced by the
    effective number of episodes, the one whose binomial variance is the variance found between tasks (Kott 2017, Survey
    Methodology 43(2)). It lies between the number of tasks (each is always solved or never) and of all episodes (all
    tasks are equally hard).

    Args:
        values: [tasks] in [0, 1]: success, share of successes, or chance that one of k succeeds.
        samples: episodes per task behind each value.

    Raises:
        ValueError: there are no values.
    """
    count = len(values)
    if not count:
        raise ValueError("an interval needs at least one task")
    centre = sum(values) / count
    spread = centre * (1.0 - centre)
    between = sum((v - centre) ** 2 for v in values) / max(1, count - 1)
    effective = spread * count / between if between > 0 else math.inf
    effective = float(count) if spread <= 0 else min(max(effective, count), count * samples)
    shrink = 1.0 + Z**2 / effective
    middle = (centre + Z**2 / (2 * effective)) / shrink
    half = Z / shrink * math.sqrt(max(0.0, spread) / effective + Z**2 / (4 * effective**2))
    return Interval(centre, max(0.0, middle - half), min(1.0, middle + half), standard_error(values))


def paired(differences: Sequence[float]) -> Interval:
    """Interval of the mean of paired differences, one per task (Agresti and Min 2005, Statistics in Medicine 24(5)).

    The normal approximation after half a task was added to each of the four outcomes (solved before and after, only
    before, only after, never); with it one gain in ten tasks is not taken for a certain one.

    Args:
        differences: [tasks] in [-1, 1]: after minus before.

    Raises:
        ValueError: there are no differences.
    """
    if not differences:
        raise ValueError("an interval needs at least one task")
    count = len(differences) + 2
    middle = sum(differences) / count
    half = Z * math.sqrt(((sum(d * d for d in differences) + 1) / count - middle**2) / count)
    return Interval(
        sum(differences) / len(differences),
        max(-1.0, middle - half),
        min(1.0, middle + half),
        standard_error(differences),
    )
