"""`make bench-intervals`: how often the intervals of docs/metrics.md hold the truth, and how often the bootstrap does.

Tasks have difficulties drawn from a Beta distribution, and eight samples each. A draw is an evaluation; the truth is
that of 200,000 tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from orchestrator.bootstrap import interval
from orchestrator.intervals import proportion
from rejuvenation.diagnostics.passes import pass_at_k

DIFFICULTIES = ((0.3, 0.3), (0.05, 1.0), (5.0, 5.0), (1.0, 1.0), (2.0, 8.0))
"""Parameters of Beta distributions: always or never solved, hardly ever, all alike, anything, mostly hard."""
SAMPLES = 8
KS = (1, 4, 8)


def coverage(alpha: float, beta: float, k: int, tasks: int, draws: int) -> tuple[float, float]:
    """Return the shares of draws whose interval holds the true pass@k: of ours, of the bootstrap over tasks."""
    generator = np.random.default_rng(0)
    truth = float((1 - (1 - generator.beta(alpha, beta, 200_000)) ** k).mean())
    by_count = [pass_at_k(SAMPLES, count, k) for count in range(SAMPLES + 1)]
    ours = bootstrap = 0
    for draw in range(draws):
        correct = generator.binomial(SAMPLES, generator.beta(alpha, beta, tasks))
        values = [by_count[count] for count in correct]
        found, other = proportion(values, samples=SAMPLES), interval(np.array([values]), 200, seed=draw)
        ours += found.low <= truth <= found.high
        bootstrap += other.low <= truth <= other.high
    return ours / draws, bootstrap / draws


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args(arguments).draws
    say("share of draws whose 95 % interval holds the truth: least, median, largest")
    say("tasks      ours                  bootstrap over tasks")
    for tasks in (10, 30, 100):
        found = np.array([coverage(a, b, k, tasks, draws) for a, b in DIFFICULTIES for k in KS])
        ours, bootstrap = (" ".join(f"{q:.3f}" for q in np.quantile(side, (0, 0.5, 1))) for side in found.T)
        say(f"{tasks:5}      {ours}     {bootstrap}")


if __name__ == "__main__":
    main()
