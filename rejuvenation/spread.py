"""A scored model spread over several devices, and over disk where they are full (`rejuvenation.device_map`).

Accelerate places the layers and moves what passes between them. A layer that fits on no device keeps no weights: they
are read for each pass, here straight from the checkpoints (or fused, or repaired, from both), so that nothing is copied
to disk. Tried with layers in memory and on disk on one machine; not yet on several GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig


class Weights(Mapping[str, torch.Tensor]):
    """The named weights of a checkpoint, or of a view of some, each read when it is asked for.

    Args:
        names: of the tensors.
        read: gives one.
    """

    def __init__(self, names: Collection[str], read: Callable[[str], torch.Tensor]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def placement(config: RejuvenationConfig) -> dict[str, Any]:
    """What `from_pretrained` is told about where the layers go; nothing without `config.device_map`.

    Raises:
        ConfigError: accelerate is not installed.
    """
    if config.device_map is None:
        return {}
    if find_spec("accelerate") is None:
        fix = "Install it (pip install 'rejuvenate-rl[large]'), or set rejuvenation.device_map=null."
        raise ConfigError("rejuvenation.device_map", "needs the package accelerate", config.device_map, fix)
    sizes: dict[int | str, str] = {
        int(name) if name.isdigit() else name: size for name, size in config.max_memory.items()
    }
    return {"device_map": config.device_map, "max_memory": sizes or None}


def is_spread(model: nn.Module) -> bool:
    """Whether a model's layers lie in more than one place, or on disk."""
    places = set(getattr(model, "hf_device_map", {}).values())
    return len(places) > 1 or "disk" in places


def device_of(model: nn.Module) -> torch.device:
    """Where a model takes its tokens: the device of its first weight that is on one."""
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def read_from(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Let the modules that keep no weights read them from here."""
    tied = getattr(model, "config", None) is not None and model.config.get_text_config().tie_word_embeddings
    for path, module in model.named_modules():
        for hook in _hooks(module):
            hook.weights_map = _Named(weights, path, model, tied)


class _Named(Mapping[str, torch.Tensor]):
    """The weights and buffers of one module, by their names inside it."""

    def __init__(self, weights: Mapping[str, torch.Tensor], path: str, model: nn.Module, tied: bool) -> None:
        self._weights, self._path, self._tied = weights, path, tied
        self._names = [name for name, _ in model.get_submodule(path).named_parameters()]

    def __getitem__(self, name: str) -> torch.Tensor:
        full = f"{self._path}.{name}"
        return self._weights["model.embed_tokens.weight" if self._tied and full == "lm_head.weight" else full]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def at_hand(*modules: nn.Module) -> Iterator[None]:
    """Have the weights of modules where these compute, for use outside their forward pass."""
    with ExitStack() as stack:
        for module in modules:
            for part in module.modules():
                for hook in _hooks(part):
                    hook.pre_forward(part)
                    stack.callback(hook.post_forward, part, None)
        yield


def _hooks(module: nn.Module) -> list[Any]:
    """Those of accelerate that read a module's weights for each pass."""
    hook = getattr(module, "_hf_hook", None)
    return [one for one in getattr(hook, "hooks", [hook]) if getattr(one, "offload", False)]
