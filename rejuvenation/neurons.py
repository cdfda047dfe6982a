"""All neurons of a model in one order: by layer, then q k v o gate up down, then index.

A neuron is a row of q, k, v, gate, up (with its bias entry) or a column of o, down (arXiv 2606.09932, Eq. 5). The
order is that of ties in the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from configs.checkpoint import EXACT_ARCHITECTURES
from configs.errors import ConfigError
from rejuvenation.checkpoint import CheckpointReader

KINDS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""The seven modules in ranking order, with their path inside a layer."""
WRITERS = ("o", "down")
"""Modules that write to the residual stream; their neurons are columns."""


@dataclass(frozen=True, slots=True)
class Module:
    """One of the seven linear maps of one layer."""

    layer: int
    kind: str
    path: str
    """Its name in the checkpoint, without `.weight` or `.bias`."""
    offset: int
    """Number of its first neuron."""
    size: int
    """Number of its neurons."""
    has_bias: bool = False
    """Whether the checkpoint holds a bias of it."""

    @property
    def axis(self) -> int:
        """Axis of the weight along which its neurons lie: 0 rows, 1 columns."""
        return 1 if self.kind in WRITERS else 0

    @property
    def neurons(self) -> slice:
        """Its part of an array over all neurons."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True, slots=True)
class NeuronTable:
    """The modules of a model, and the numbering of their neurons."""

    modules: tuple[Module, ...]

    @classmethod
    def of(cls, reader: CheckpointReader) -> NeuronTable:
        """The table of a checkpoint.

        Raises:
            ConfigError: the attribution is not exact for its architecture, or config.json does not say how many layers
                it has, or a weight of one of the seven modules is missing.
        """
        check_supported(reader)
        modules: list[Module] = []
        offset = 0
        for layer in range(_num_layers(reader)):
            for kind, inner in KINDS.items():
                path = f"model.layers.{layer}.{inner}"
                if f"{path}.weight" not in reader:
                    fix = f"Compare the tensors of {reader.directory} with its config.json, or save it again."
                    raise ConfigError(reader.role, f"must hold tensor {path}.weight", None, fix)
                size = reader.entries[f"{path}.weight"].shape[1 if kind in WRITERS else 0]
                modules.append(Module(layer, kind, path, offset, size, f"{path}.bias" in reader))
                offset += size
        return cls(tuple(modules))

    @property
    def total(self) -> int:
        """Number of all neurons."""
        return sum(module.size for module in self.modules)

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return self.modules[-1].layer + 1

    def masks(self, selected: torch.Tensor) -> dict[str, tuple[int, torch.Tensor]]:
        """Where neurons lie in the checkpoint's tensors: of a weight, and of the bias where they are rows.

        Args:
            selected: [number of neurons] bool.

        Returns:
            Name of each tensor that has selected neurons -> axis, [size of the axis] bool.
        """
        assert selected.shape == (self.total,), (selected.shape, self.total)
        found: dict[str, tuple[int, torch.Tensor]] = {}
        for module in self.modules:
            mask = selected[module.neurons]
            if not mask.any():
                continue
            found[f"{module.path}.weight"] = module.axis, mask
            if module.axis == 0 and module.has_bias:  # a column has no bias entry of its own
                found[f"{module.path}.bias"] = 0, mask
        return found

    def counts(self, selected: torch.Tensor) -> dict[str, list[int]]:
        """Selected neurons by kind of module, one entry per layer."""
        counts: dict[str, list[int]] = {kind: [] for kind in KINDS}
        for module in self.modules:
            counts[module.kind].append(int(selected[module.neurons].sum()))
        return counts


def _num_layers(reader: CheckpointReader) -> int:
    count = reader.config.get("num_hidden_layers")
    if not isinstance(count, int) or count < 1:
        rule = f"must state num_hidden_layers >= 1 in {reader.directory / 'config.json'}"
        raise ConfigError(reader.role, rule, count, "Write the number of layers there, or save the checkpoint again.")
    return count


def check_supported(reader: CheckpointReader) -> None:
    """Refuse the reset where the attribution is not exact.

    Raises:
        ConfigError: the architecture is not one of `EXACT_ARCHITECTURES`.
    """
    architecture = (reader.config.get("architectures") or ["not stated in config.json"])[0]
    if architecture not in EXACT_ARCHITECTURES:
        exact = ", ".join(EXACT_ARCHITECTURES)
        rule = f"can score and reset neurons of {exact} only; this checkpoint is of another architecture"
        fix = "Fusion alone works for it: leave the reset out of rejuvenation.steps (--steps fusion.linear)."
        raise ConfigError("rejuvenation.steps", rule, architecture, fix)


def group_of(name: str) -> str:
    """The group of tensors that one belongs to: q k v o gate up down, norms, embeddings, other."""
    for kind, path in KINDS.items():
        if f".{path}." in name:
            return kind
    if "norm" in name:
        return "norms"
    return "embeddings" if "embed_tokens" in name or name.startswith("lm_head") else "other"
