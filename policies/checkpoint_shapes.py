"""What a checkpoint directory promises without its weights: tensor names, shapes, end-of-turn ids."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor


def checkpoint_shapes(model_dir: str | Path) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """What a checkpoint's tensors are called and how large they are.

    Args:
        model_dir: a directory with a `config.json`.

    Returns:
        name -> shape of every tensor, tied embeddings once; and the other names of tied tensors (`lm_head.weight`),
        under which some checkpoints hold them a second time.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(model_dir))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return shapes, {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(shapes)


def check_complete(named: Iterable[tuple[str, Tensor]], shapes: dict[str, tuple[int, ...]], version: int) -> None:
    """Raise `RuntimeError` unless `named` holds each tensor of `shapes` once, in its shape, and nothing else."""
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in named:
        if name in found:
            raise RuntimeError(f"weights of version {version}: {name} came twice")
        found[name] = tuple(tensor.shape)
    missing = [name for name in shapes if name not in found]
    unknown = [name for name in found if name not in shapes]
    if missing or unknown:
        raise RuntimeError(
            f"weights of version {version} are not this checkpoint's: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    for name, shape in shapes.items():
        if found[name] != shape:
            raise RuntimeError(f"weights of version {version}: {name} has shape {found[name]}, expected {shape}")


def end_of_turn_ids(model_dir: str | Path) -> set[int]:
    """Return the end-of-text ids that the generation config, or else the config, of a checkpoint names."""
    from transformers import AutoConfig, GenerationConfig

    if (Path(model_dir) / "generation_config.json").is_file():
        ids = GenerationConfig.from_pretrained(str(model_dir)).eos_token_id
    else:
        ids = AutoConfig.from_pretrained(str(model_dir)).eos_token_id
    if ids is None:
        return set()
    return {ids} if isinstance(ids, int) else set(ids)
