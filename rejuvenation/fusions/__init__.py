"""Fusion steps by name: each brings the SFT checkpoint nearer to its base, or calms it by itself."""

from __future__ import annotations

from configs.rejuvenation import RejuvenationConfig
from rejuvenation.fusions.breadcrumbs import Breadcrumbs
from rejuvenation.fusions.dare import Dare
from rejuvenation.fusions.fusion import Fusion
from rejuvenation.fusions.linear import GroupAlpha, Linear
from rejuvenation.fusions.norm_clip import NormClip
from rejuvenation.fusions.shrink_and_perturb import ShrinkAndPerturb
from rejuvenation.fusions.slerp import Slerp
from rejuvenation.fusions.spectral_clip import SpectralClip
from rejuvenation.fusions.spike_clip import SpikeClip, WeightClip
from rejuvenation.fusions.temperature import Temperature
from rejuvenation.fusions.ties import Ties


def fusions_of(config: RejuvenationConfig, seed: int) -> list[Fusion]:
    """The fusion steps of a configuration, in order; `seed` draws what is random in them."""
    options, alpha = config.fusion, config.alpha
    makers = {
        "linear": lambda: Linear(alpha),
        "group_alpha": lambda: GroupAlpha(alpha, options.group_alpha),
        "slerp": lambda: Slerp(alpha),
        "ties": lambda: Ties(alpha, options.density),
        "dare": lambda: Dare(alpha, options.drop, seed),
        "breadcrumbs": lambda: Breadcrumbs(alpha, options.density, options.spikes),
        "norm_clip": lambda: NormClip(options.norm_ratio),
        "spike_clip": lambda: SpikeClip(options.spike_limit),
        "shrink_and_perturb": lambda: ShrinkAndPerturb(options.shrink, options.noise, seed),
        "temperature": lambda: Temperature(options.tau),
        "weight_clip": lambda: WeightClip(options.spike_limit),
        "spectral_clip": lambda: SpectralClip(options.spectral_limit),
    }
    return [makers[name]() for name in config.fusions]
