"""DeepSpeed as the learner uses it; with `optimizer_parts.py` the only modules that know DeepSpeed's API (0.19.8).

DeepSpeed is imported inside the functions: importing it takes seconds and fixes the accelerator.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from configs.learner import LearnerConfig

GATHER_BYTES = 256 << 20
"""Bytes of full parameters gathered at once under ZeRO-3."""
DEPRECATED = r"`torch\.distributed\..*` is deprecated"
"""What torch says when DeepSpeed or vLLM, as they are imported, look at names of it."""
TAG = "deepspeed"
"""Folder of DeepSpeed's files inside a checkpoint directory."""


def join_process_group(config: LearnerConfig) -> tuple[int, int, torch.device]:
    """Join (or share) the process group described by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    A group that exists already, such as the one of an engine in the same process, is shared.

    Returns:
        rank, number of ranks, device of this rank.

    Raises:
        ValueError: a variable is missing, WORLD_SIZE is not `learner.ranks`, or the device is not there.
    """
    missing = [n for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise ValueError(
            f"a learner rank needs {', '.join(missing)} in its environment: set them before making Learner"
        )
    if int(os.environ["WORLD_SIZE"]) != config.ranks:
        raise ValueError(f"WORLD_SIZE must be learner.ranks ({config.ranks}), got {os.environ['WORLD_SIZE']}")
    if config.device == "cpu":
        device = torch.device("cpu")
    else:
        if not torch.cuda.is_available():
            raise ValueError("learner.device must be a device of this machine, got 'cuda': no GPU is visible, use cpu")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    os.environ["DS_ACCELERATOR"] = config.device  # read once, when deepspeed is first imported
    warnings.filterwarnings("ignore", DEPRECATED, FutureWarning)
    import deepspeed

    # Its shared-memory all-reduce serves inference only, yet would be compiled (20 s to 2 min) when the group is made.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        "gloo" if config.device == "cpu" else "nccl",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timedelta(seconds=max(config.timeout_s, config.start_timeout_s)),
    )
    return torch.distributed.get_rank(), torch.distributed.get_world_size(), device


def make_engine(module: nn.Module, config: LearnerConfig) -> Any:
    """Wrap `module` in a DeepSpeed engine with a fresh AdamW; partitions it in place under ZeRO-3."""
    import deepspeed

    optimizer = torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=settings(config), dist_init_required=False
    )
    # One rank has nothing to reduce; ZeRO's partitioning needs its pass all the same.
    if config.ranks == 1 and config.zero_stage == 0 and config.dtype == "float32":
        engine.enable_backward_allreduce = False
    return engine


def settings(config: LearnerConfig) -> dict[str, Any]:
    """DeepSpeed's configuration. Batch sizes are placeholders: the learner sets the accumulation boundary itself."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.zero_stage >= 2:
        zero["overlap_comm"] = config.device == "cuda"
    if config.offload_optimizer and config.zero_stage >= 1 and config.device == "cuda":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    found: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # CPUAdam would be compiled; torch's fused AdamW is as fast
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "gradient_clipping": config.grad_clip if clips_gradients(config) else 0.0,
        "steps_per_print": 1 << 40,
    }
    if config.dtype == "bfloat16" and config.zero_stage > 0:  # without ZeRO it takes the model's dtype only
        found["data_types"] = {"grad_accum_dtype": "fp32"}
    return found


def clips_gradients(config: LearnerConfig) -> bool:
    """Whether DeepSpeed computes and clips the gradient norm; at stage 0 in float32 it keeps the norm to itself."""
    return config.zero_stage > 0 or config.dtype != "float32"


def destroy_engine(engine: Any) -> None:
    """Drop the engine with its hooks and buffers, so that another can be made in the same process.

    Under ZeRO-3 hooks in autograd's C++ nodes keep the engine's Python objects alive, where no garbage collector finds
    them. So what they hold is let go by hand: parameters, partitions, and the optimizer's float32 copies and states.
    """
    engine.destroy()
    parameters = list(engine.module.parameters())
    if engine.zero_optimization():
        vars(engine.optimizer.optimizer).clear()
        vars(engine.optimizer).clear()
    for parameter in parameters:
        parameter.grad = None
        parameter.data = torch.empty(0)
        vars(parameter).clear()
    gc.collect()


def full_parameters(module: nn.Module, stage: int) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter with its name, in full; tied parameters once.

    Under ZeRO-3 parameters are gathered in buckets of `GATHER_BYTES`, counted by `ds_numel` (an ungathered parameter
    has no elements of its own), and every rank must iterate to the end. Otherwise the tensors are the parameters
    themselves: they change with the next step.
    """
    if stage < 3:
        for name, parameter in module.named_parameters():
            yield name, parameter.detach()
        return
    import deepspeed

    bucket: list[tuple[str, Any]] = []
    size_bytes = 0
    named = list(module.named_parameters())
    for index, (name, parameter) in enumerate(named):
        bucket.append((name, parameter))
        size_bytes += parameter.ds_numel * parameter.element_size()
        if size_bytes >= GATHER_BYTES or index == len(named) - 1:
            with deepspeed.zero.GatheredParameters([p for _, p in bucket]):
                tensors = [(n, p.detach().clone()) for n, p in bucket]
            yield from tensors
            bucket, size_bytes = [], 0


def full_shape(parameter: Any) -> tuple[int, ...]:
    """Shape of a parameter; one that ZeRO-3 has partitioned has no shape of its own."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


@contextmanager
def swapped_weights(engine: Any, replacement: list[Tensor]) -> Iterator[None]:
    """Run the body with `replacement` (see `shards`) as weights, then put the weights back, bit by bit."""
    kept = shards(engine)
    _write(engine, replacement)
    try:
        yield
    finally:
        _write(engine, kept)


def shards(engine: Any) -> list[Tensor]:
    """Copies of what this rank holds of each parameter: its partition under ZeRO-3, else the full parameter."""
    return [holder.detach().clone() for holder in _holders(engine)]


@contextmanager
def weights_apart(engine: Any) -> Iterator[None]:
    """Run the body, which changes weights, with no gathered copy of the old ones left under ZeRO-3."""
    partitioned = engine.zero_optimization_partition_weights()
    if partitioned:
        engine.optimizer.checkpoint_event_prologue()
    yield
    if partitioned:  # small parameters stay gathered between steps: gather them anew
        engine.optimizer.checkpoint_event_epilogue()


def _write(engine: Any, values: list[Tensor]) -> None:
    with weights_apart(engine), torch.no_grad():
        for holder, value in zip(_holders(engine), values, strict=True):
            holder.copy_(value)


def _holders(engine: Any) -> list[Tensor]:
    partitioned = engine.zero_optimization_partition_weights()
    return [p.ds_tensor if partitioned else p.data for p in engine.module.parameters()]
