"""The one model in memory that is filled with a ladder's checkpoints in turn."""

from __future__ import annotations

import torch
from torch import nn

from configs.diagnosis import ON_WEIGHTS, DiagnosisConfig
from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.memory import available_bytes
from rejuvenation.scored_model import load_model, put_weights, scoring_device, scoring_dtype
from rejuvenation.spread import Weights

COPIES = {"sharpness": 10, "gradient": 5}
"""Memory at the peak as a multiple of the weights, which are counted; 1 for all other diagnostics. Measured on 47
million parameters: 9.4 and 4.6, activations of a few short sequences included."""


class LadderModel:
    """Loaded when first needed, and again where a checkpoint has other shapes than the one before.

    Args:
        first: the ladder's first checkpoint; the base is measured in its shapes.
        config: device, dtype, and what is measured.
    """

    def __init__(self, first: Alignment, config: DiagnosisConfig) -> None:
        self.first = first
        self.config = config
        self._model: nn.Module | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}

    def base(self) -> nn.Module:
        """The model with the base's weights."""
        return self._filled(self.first, base=True)

    def sft(self, rung: Alignment) -> nn.Module:
        """The model with an SFT checkpoint's weights."""
        return self._filled(rung, base=False)

    def _filled(self, rung: Alignment, *, base: bool) -> nn.Module:
        shapes = {name: entry.shape for name, entry in rung.sft.entries.items()}
        if self._model is None or shapes != self._shapes:
            self._model = None  # two might not fit
            check_memory(rung.sft, self.config)
            settings = RejuvenationConfig(device=self.config.device, scoring_dtype=self.config.dtype)
            self._model = load_model(rung.sft.directory, settings)
            self._shapes = shapes
        put_weights(self._model, Weights(rung.sft.entries, rung.base_tensor if base else rung.sft.tensor))
        return self._model


def check_memory(reader: CheckpointReader, config: DiagnosisConfig) -> None:
    """Refuse diagnostics whose copies of the weights cannot fit; activations, bounded by the config, come on top.

    Raises:
        ConfigError: says what needs how much.
    """
    device = scoring_device(config.device)
    itemsize = scoring_dtype(config.dtype, device).itemsize
    weights = itemsize * sum(torch.Size(entry.shape).numel() for entry in reader.entries.values())
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    copies = {"the model": 1, **{name: count for name, count in COPIES.items() if name in config.only}}
    for name, count in copies.items():
        if count * weights > free:
            rule = f"must fit into memory: {name} takes {count * weights / 1e9:.3g} GB, {free / 1e9:.3g} GB are free"
            fix = f"Leave it out with --only, or use a larger GPU; {', '.join(ON_WEIGHTS)} only stream the files."
            raise ConfigError("diagnosis.only", rule, list(config.only), fix)
