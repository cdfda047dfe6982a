"""Algorithm: how rewards become advantages and advantages a loss."""

from __future__ import annotations

from dataclasses import dataclass

from configs import bounds
from configs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AlgorithmConfig:
    """GRPO (arXiv 2402.03300) with asymmetric clipping (arXiv 2503.14476) and an optional KL term."""

    name: str = "grpo"
    """Advantage and loss, by name: `grpo` (advantages divided by the group's standard deviation) or `dr_grpo` (not)."""
    steps: int = 100
    """Training steps; each is one batch of rollouts and ends with one publication of the weights."""
    prompts_per_step: int = 32
    """Prompts (groups) per training step."""
    group_size: int = 8
    """Completions per prompt."""
    minibatches: int = 1
    """Optimizer steps per training step; the batch's groups are split over them."""
    clip_low: float = 0.2
    """The importance ratio is clipped below at 1 - clip_low."""
    clip_high: float = 0.2
    """The importance ratio is clipped above at 1 + clip_high."""
    kl_coef: float = 0.0
    """Weight of the KL term to the starting checkpoint (k3 estimator, in the loss); 0 keeps no reference."""
    drop_equal_groups: bool = True
    """Leave groups whose rewards are all equal out of the learner's batch: their advantages are zero."""

    def __post_init__(self) -> None:
        section = "algorithm."
        bounds.one_of(section, "name", self.name, ("grpo", "dr_grpo"))
        for name in ("steps", "prompts_per_step", "minibatches"):
            bounds.at_least(section, name, getattr(self, name), 1)
        bounds.at_least(section, "group_size", self.group_size, 2)
        bounds.within(section, "clip_low", self.clip_low, 0.0, 1.0)
        bounds.at_least(section, "clip_high", self.clip_high, 0.0)
        bounds.at_least(section, "kl_coef", self.kl_coef, 0.0)
        if self.prompts_per_step % self.minibatches:
            raise ConfigError(
                "algorithm.minibatches",
                f"must divide algorithm.prompts_per_step ({self.prompts_per_step})",
                self.minibatches,
                "A group is never split over optimizer steps: choose a divisor.",
            )
