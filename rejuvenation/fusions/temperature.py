"""Temperature folded into the final norm: more entropy with no surgery (a control; ours). Needs no base."""

from __future__ import annotations

from typing import Any

import torch

from configs.checkpoint import EXACT_ARCHITECTURES
from configs.errors import ConfigError
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.fusions.fusion import Fusion, Place

FINAL_NORM = "model.norm.weight"


class Temperature(Fusion):
    """gamma / tau: every logit of a model without lm_head bias is divided by tau."""

    keeps_equal = False

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def check(self, sft: CheckpointReader) -> None:
        """Refuse architectures whose logits are not linear in the final norm's weight."""
        architecture = (sft.config.get("architectures") or ["not stated in config.json"])[0]
        if architecture not in EXACT_ARCHITECTURES or FINAL_NORM not in sft:
            rule = f"can hold fusion.temperature for {', '.join(EXACT_ARCHITECTURES)} only"
            raise ConfigError("rejuvenation.steps", rule, architecture, "Leave it out.")

    def skips(self, place: Place) -> bool:
        """Only the final norm is changed."""
        return place.name != FINAL_NORM

    def fuse(self, place: Place, base: torch.Tensor, sft: torch.Tensor, facts: Any = None) -> torch.Tensor:
        """See `Fusion.fuse`."""
        return sft.div_(self.tau)
