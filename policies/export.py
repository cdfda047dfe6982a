"""Write named weights as the safetensors file of a Hugging Face checkpoint directory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

SHARD_BYTES = 4 << 30


def write_checkpoint(named: Iterable[tuple[str, Tensor]], directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors into `directory` beside its config.json, whose dtype is set to theirs.

    Args:
        named: checkpoint names and full tensors; consumed one by one, at most one shard is held.
        directory: exists and holds config.json.
        shard_bytes: a new file is begun when the present one would pass this size.
    """
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    size = total = 0
    dtypes: set[torch.dtype] = set()

    def flush() -> None:
        nonlocal held, size
        if held:
            shards.append(list(held))
            save_file(held, directory / f"shard-{len(shards)}.safetensors", metadata={"format": "pt"})
        held, size = {}, 0

    for name, tensor in named:
        count = tensor.numel() * tensor.element_size()
        if held and size + count > shard_bytes:
            flush()
        held[name] = tensor.detach().to("cpu").contiguous()
        size += count
        total += count
        dtypes.add(tensor.dtype)
    flush()

    if len(shards) == 1:
        (directory / "shard-1.safetensors").rename(directory / "model.safetensors")
    else:
        weight_map = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            (directory / f"shard-{number}.safetensors").rename(directory / file)
            weight_map.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    if len(dtypes) == 1:
        config = json.loads((directory / "config.json").read_text())
        config.pop("torch_dtype", None)
        config["dtype"] = str(dtypes.pop()).removeprefix("torch.")
        (directory / "config.json").write_text(json.dumps(config, indent=2))
