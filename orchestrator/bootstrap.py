"""Bootstrap intervals over seeds and problems at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval and its standard error."""

    mean: float
    low: float
    high: float
    error: float

    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


def interval(values: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Interval:
    """95 % percentile interval of the mean of `values`, resampling both axes with replacement (crossed bootstrap).

    All seeds solve the same problems, so rows and columns are drawn independently of each other (the pigeonhole
    bootstrap, Owen 2007, Annals of Applied Statistics 1(2)); it is conservative.

    Args:
        values: [seeds, problems], for example after minus before RL, or one arm minus another.
        resamples: number of bootstrap samples.
        seed: of the resampling.
    """
    seeds, problems = values.shape
    generator = np.random.default_rng(seed)
    # The mean over drawn rows and columns is a bilinear form in how often each was drawn.
    rows = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    columns = generator.multinomial(problems, np.full(problems, 1 / problems), size=resamples) / problems
    means = np.einsum("rs,sp,rp->r", rows, values.astype(np.float64), columns, optimize=True)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), float(means.std()))
