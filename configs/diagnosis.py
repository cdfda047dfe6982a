"""What `rejuvenate diagnose` measures, how much of it, and where it draws the line."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs import bounds
from configs.errors import ConfigError
from configs.rejuvenation import DEVICE, SCORING_DTYPES

ON_WEIGHTS = ("drift", "changes", "rank")
"""Diagnostics that read the weight files alone."""
ON_TEXT = ("entropy", "loss")
"""Diagnostics that run the model on calibration pairs."""
ON_REWARDS = ("passes", "gradient")
"""Diagnostics that sample from the model and grade what it says."""
DIAGNOSTICS = (*ON_TEXT, "rollouts", *ON_REWARDS, "sharpness", *ON_WEIGHTS)
"""All of them; `rollouts` samples; sharpness is measured on calibration pairs and on rollouts, where there are any."""


@dataclass(frozen=True, slots=True)
class VerdictConfig:
    """Where the line is drawn between checkpoints that RL can start from and others; see docs/diagnostics.md."""

    entropy_ratio: float = 0.5
    """Entropy below this share of the base's counts as collapsed: on rollouts, or else on calibration responses."""
    high_entropy_ratio: float = 0.5
    """A share of high-entropy tokens below this share of the base's counts as collapsed, too."""
    pass_at_k: float = 0.1
    """Below this pass@k the task is not in the model yet: RL has next to nothing to reinforce."""
    signal_share: float = 0.25
    """An expected share of groups with a signal below this is a weak sign for RL."""
    recovered: float = 0.25
    """(pass@k - pass@1) / (1 - pass@1) below this is a weak sign: sampling finds little that usually fails."""
    gradient_snr: float = 0.0
    """A gradient signal-to-noise ratio at or below this is a weak sign: the two halves do not agree."""
    base_like: float = 0.9
    """Without a reward: entropy and loss both above this share of the base's say that SFT has changed little yet."""

    def __post_init__(self) -> None:
        for name in ("entropy_ratio", "high_entropy_ratio", "base_like"):
            bounds.above("diagnosis.verdict.", name, getattr(self, name), 0.0)
        for name in ("pass_at_k", "signal_share", "recovered"):
            bounds.within("diagnosis.verdict.", name, getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class DiagnosisConfig:
    """Which diagnostics are measured, on how much data, in how much memory."""

    only: tuple[str, ...] = DIAGNOSTICS
    """Diagnostics to measure; what lacks its data (calibration pairs, a reward) is left out with a note."""
    calibration_pairs: int = 64
    """Calibration pairs used; of more, this many are drawn by seed, whatever their order."""
    prompts: int = 64
    """Prompts that are sampled from; of more, this many are drawn by seed, whatever their order."""
    samples: int = 8
    """Rollouts per prompt (n), at temperature 1, as GRPO samples them."""
    group_size: int = 8
    """Rollouts per GRPO group (g); must divide `samples`."""
    k: int = 8
    """k of pass@k, at most `samples`."""
    max_new_tokens: int = 512
    """Longest response sampled."""
    rollout_batch: int = 64
    """Sequences generated at once."""
    batch_tokens: int = 2048
    """Tokens, padding included, that one forward and backward pass holds; a longer pair runs alone."""
    sharpness_pairs: int = 8
    """Calibration pairs, and rollouts of different prompts, that sharpness is measured on."""
    lanczos_iterations: int = 20
    """Hessian-vector products spent on the largest eigenvalue, at most."""
    trace_probes: int = 8
    """Hessian-vector products spent on the trace."""
    perturbations: tuple[float, ...] = (0.01, 0.03, 0.1)
    """Sizes of relative weight noise under which the loss is measured: ||noise|| / ||w|| of every tensor."""
    perturbation_seeds: int = 3
    """Draws of the noise that are averaged."""
    rank_max_side: int = 2048
    """Matrices whose smaller side is longer are left out of the effective rank: its cost grows with the cube."""
    dtype: str = "float32"
    """Dtype of the model; bfloat16 halves the memory but rounds gradients, and noise below 0.4 % of a weight away."""
    device: str = "auto"
    """Where the model runs: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    seed: int = 0
    """Of everything drawn: pairs, prompts, rollouts, noise, probes."""
    verdict: VerdictConfig = field(default_factory=VerdictConfig)
    """Where the line is drawn."""

    def __post_init__(self) -> None:
        section = "diagnosis."
        if not self.only:
            raise ConfigError(section + "only", "must name a diagnostic", self.only, f"Say {DIAGNOSTICS[0]}, say.")
        for name in self.only:
            bounds.one_of(section, "only", name, DIAGNOSTICS)
        for name in ("calibration_pairs", "prompts", "max_new_tokens", "rollout_batch", "batch_tokens"):
            bounds.at_least(section, name, getattr(self, name), 1)
        for name in ("sharpness_pairs", "lanczos_iterations", "perturbation_seeds", "rank_max_side"):
            bounds.at_least(section, name, getattr(self, name), 1)
        bounds.at_least(section, "group_size", self.group_size, 2)
        bounds.at_least(section, "trace_probes", self.trace_probes, 2)
        bounds.at_least(section, "samples", self.samples, self.group_size)
        if self.samples % self.group_size:
            rule = f"must be a multiple of group_size ({self.group_size})"
            raise ConfigError(section + "samples", rule, self.samples, f"Set it to {self.group_size}, say.")
        bounds.within(section, "k", self.k, 1, self.samples)
        for size in self.perturbations:
            bounds.above(section, "perturbations", size, 0.0)
        if not DEVICE.fullmatch(self.device):
            fix = "Leave it at auto to take a GPU where there is one."
            raise ConfigError(section + "device", "must be auto, cpu, cuda or cuda:N", self.device, fix)
        bounds.one_of(section, "dtype", self.dtype, SCORING_DTYPES)
