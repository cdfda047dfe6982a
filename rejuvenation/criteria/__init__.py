"""Reset criteria by name: what neurons are chosen by."""

from __future__ import annotations

from rejuvenation.criteria.activity import Dormancy, GradientMagnitude
from rejuvenation.criteria.attribution import Attribution, DeltaAttribution, EntropyAttribution
from rejuvenation.criteria.criterion import Criterion

SCORED: dict[str, type[Criterion]] = {
    "attribution": Attribution,
    "entropy_attribution": EntropyAttribution,
    "delta_attribution": DeltaAttribution,
    "dormancy": Dormancy,
    "gradient_magnitude": GradientMagnitude,
}
"""Criteria that score what the model does at target tokens; `drift` and `random` look at no token."""
