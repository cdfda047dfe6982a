"""The repair of an over-trained SFT checkpoint (arXiv 2606.09932)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from configs import bounds
from configs.errors import ConfigError

RESETS = ("attribution", "random", "none")
RANKINGS = ("global", "per_module", "per_layer")
SCORE_SIGNS = ("positive", "absolute")
RESET_TARGETS = ("base", "fused", "zero")
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
SCORING_DTYPES = ("auto", "float32", "bfloat16", "float64")


@dataclass(frozen=True, slots=True)
class RejuvenationConfig:
    """Fuse the SFT checkpoint with its base, then reset the neurons that carry its over-confidence."""

    alpha: float = 0.5
    """Weight of the SFT checkpoint in the fusion alpha * sft + (1 - alpha) * base (Eq. 1)."""
    rho: float = 0.01
    """Share of all neurons kept per target token (Eq. 4); their union over tokens is larger. 0 resets none."""
    reset: str = "attribution"
    """`attribution` (the paper), `random` (a control: as many neurons, drawn at random) or `none` (fusion only)."""
    calibration: str | None = None
    """JSONL of `{"messages": [...]}` or `{"prompt": ..., "response": ...}`; null: whoever calls brings token pairs."""
    calibration_pairs: int = 64
    """Prompt-response pairs that are scored; of more, this many are drawn by seed, whatever their order."""
    target_tokens: int = 8
    """Response tokens scored per pair: those with the largest entropy gap between SFT checkpoint and base."""
    ranking: str = "global"
    """Neurons that compete for rho: of the whole model, of each layer, or of each module of each layer."""
    union_cap: float | None = None
    """Largest share of all neurons reset; above it those chosen by the most target tokens stay. null: no cap."""
    score_sign: str = "positive"
    """`positive` ranks signed scores, most positive first; `absolute` ranks by magnitude."""
    frozen_norm: bool = True
    """Gradient scores take the final RMSNorm's scale as a constant; false differentiates through it."""
    reset_target: str = "base"
    """What a reset neuron becomes: its `base` value (Eq. 5), `zero`, or `fused` (it stays: only the report is made)."""
    strength: float = 1.0
    """Omega: share of the way from the fused value to the reset target."""
    scoring_dtype: str = "auto"
    """Dtype of the scored model's weights; `auto` is float32 on CPU, bfloat16 on GPU. Scores are float32 or wider."""
    device: str = "auto"
    """Where the model is scored: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    timeout_s: float = 3600.0
    """Longest the rejuvenation of a run may take, downloads of named checkpoints included."""

    def __post_init__(self) -> None:
        section = "rejuvenation."
        bounds.above(section, "timeout_s", self.timeout_s, 0)
        for name in ("alpha", "rho", "strength"):
            bounds.within(section, name, getattr(self, name), 0.0, 1.0)
        if not DEVICE.fullmatch(self.device):
            fix = "Leave it at auto to take a GPU where there is one."
            raise ConfigError(section + "device", "must be auto, cpu, cuda or cuda:N", self.device, fix)
        for name in ("calibration_pairs", "target_tokens"):
            bounds.at_least(section, name, getattr(self, name), 1)
        if self.union_cap is not None:
            bounds.above(section, "union_cap", self.union_cap, 0.0)
            bounds.within(section, "union_cap", self.union_cap, 0.0, 1.0)
        for name, allowed in (
            ("reset", RESETS),
            ("ranking", RANKINGS),
            ("score_sign", SCORE_SIGNS),
            ("reset_target", RESET_TARGETS),
            ("scoring_dtype", SCORING_DTYPES),
        ):
            bounds.one_of(section, name, getattr(self, name), allowed)
