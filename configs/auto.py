"""How `alpha: auto` and `rho: auto` are chosen (ours; the rule stands in docs/rejuvenation.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs import bounds

AUTO = "auto"
"""Value of `rejuvenation.alpha` and `rejuvenation.rho` that asks for a choice."""


@dataclass(frozen=True, slots=True)
class AutoConfig:
    """What is tried, on how much, and where the line is drawn; read only where alpha or rho is `auto`."""

    alphas: list[float] = field(default_factory=lambda: [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    """Alphas tried, besides 1 without a reset: the SFT checkpoint as it is."""
    rhos: list[float] = field(default_factory=lambda: [0.001, 0.002, 0.005, 0.01, 0.02])
    """Rhos tried, besides 0: no reset."""
    prompts: int = 128
    """Training prompts that each candidate is sampled on, the same for all; fewer where there are fewer."""
    samples: int = 8
    """Rollouts per prompt, at the temperature of the training rollouts (`rejuvenate transform`: 1)."""
    k: int = 8
    """Candidates are compared by pass@k, at most `samples`. Best the size of a GRPO group."""
    tolerance: float = 0.1
    """Of the candidates whose pass@k is at most this share of the best one's below it, the one with the most entropy is
    taken."""
    standard_errors: float = 1.0
    """Nothing is repaired where the SFT checkpoint's pass@k is at most so many standard errors below the best one's."""
    max_new_tokens: int = 512
    """Longest response sampled by `rejuvenate transform`; a run has `rollout.max_tokens`."""
    batch_size: int = 64
    """Sequences that `rejuvenate transform` generates at once."""
    answer_marker: str | None = None
    """`rejuvenate transform`: grade only what follows the last of these, such as `#`; null: docs/diagnostics.md."""
    entropy_ratio: float = 0.5
    """Without rewards: the least repair that gives back this share of the base's entropy on calibration responses."""

    def __post_init__(self) -> None:
        section = "rejuvenation.auto."
        for name in ("alphas", "rhos"):
            for value in getattr(self, name):
                bounds.within(section, name, value, 0.0, 1.0)
        for name in ("prompts", "max_new_tokens", "batch_size"):
            bounds.at_least(section, name, getattr(self, name), 1)
        bounds.at_least(section, "samples", self.samples, 2)
        bounds.within(section, "k", self.k, 1, self.samples)
        bounds.within(section, "tolerance", self.tolerance, 0.0, 0.5)
        bounds.at_least(section, "standard_errors", self.standard_errors, 0.0)
        bounds.above(section, "entropy_ratio", self.entropy_ratio, 0.0)
