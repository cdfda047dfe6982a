"""Settings of the fusion steps beyond alpha; each names the steps that read it."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs import bounds

FUSIONS = (
    "linear",
    "group_alpha",
    "slerp",
    "ties",
    "dare",
    "breadcrumbs",
    "norm_clip",
    "spike_clip",
    "shrink_and_perturb",
    "temperature",
    "weight_clip",
    "spectral_clip",
)
"""Names of the fusion steps."""
BASE_FREE = ("shrink_and_perturb", "temperature", "weight_clip", "spectral_clip")
"""Fusion steps that look at the SFT checkpoint alone."""
UNCHANGED_AT_ONE = ("linear", "slerp")
"""Fusion steps that leave the SFT checkpoint as it is at alpha 1, and move towards base as alpha falls."""
GROUPS = ("q", "k", "v", "o", "gate", "up", "down", "norms", "embeddings", "other")
"""Groups of tensors that may have an alpha of their own."""


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """What the fusion steps other than `linear` need. Delta = sft - base, tensor by tensor."""

    group_alpha: dict[str, float] = field(default_factory=dict)
    """group_alpha: alpha by group of tensors (q k v o gate up down norms embeddings other); others have `alpha`."""
    density: float = 0.2
    """ties: share of each delta's entries that stays, the largest. breadcrumbs: share that stays in the middle."""
    spikes: float = 0.01
    """breadcrumbs: share of each delta's entries that is dropped as too large."""
    drop: float = 0.5
    """dare: chance that an entry of the delta is dropped; what stays is divided by 1 - drop."""
    norm_ratio: float = 0.05
    """norm_clip: largest ||delta|| / ||base|| of a tensor; a larger delta is scaled down to it."""
    spike_limit: float = 3.0
    """spike_clip: largest |delta| in root mean squares of the tensor's delta. weight_clip: the same of the weights."""
    shrink: float = 0.9
    """shrink_and_perturb: what every matrix is multiplied by."""
    noise: float = 0.01
    """shrink_and_perturb: standard deviation of the noise added, in root mean squares of the matrix."""
    tau: float = 1.5
    """temperature: the final norm's weight is divided by it, and so are the logits."""
    spectral_limit: float = 3.0
    """spectral_clip: largest singular value in root mean squares of the matrix's singular values."""

    def __post_init__(self) -> None:
        section = "rejuvenation.fusion."
        for group, alpha in self.group_alpha.items():
            bounds.one_of(section, "group_alpha", group, GROUPS)
            bounds.within(section, f"group_alpha.{group}", alpha, 0.0, 1.0)
        for name in ("density", "spikes", "shrink"):
            bounds.within(section, name, getattr(self, name), 0.0, 1.0)
        bounds.within(section, "drop", self.drop, 0.0, 0.999)
        for name in ("norm_ratio", "spike_limit", "tau", "spectral_limit"):
            bounds.above(section, name, getattr(self, name), 0.0)
        bounds.at_least(section, "noise", self.noise, 0.0)
