"""Checkpoint in, checkpoint out: makes an over-trained SFT checkpoint ready for RL (arXiv 2606.09932)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rejuvenation.diagnosis import Diagnosis, diagnose
    from rejuvenation.pairs import TokenPair, load_pairs
    from rejuvenation.pipeline import transform
    from rejuvenation.report import Report

_HOMES = {
    "Diagnosis": "rejuvenation.diagnosis",
    "Report": "rejuvenation.report",
    "TokenPair": "rejuvenation.pairs",
    "diagnose": "rejuvenation.diagnosis",
    "load_pairs": "rejuvenation.pairs",
    "transform": "rejuvenation.pipeline",
}

__all__ = ["Diagnosis", "Report", "TokenPair", "diagnose", "load_pairs", "transform"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `--help` does not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
