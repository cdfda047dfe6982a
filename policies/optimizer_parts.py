"""What a rank's optimizer holds of a parameter under each ZeRO stage, and how single entries of it are overwritten.

With `zero.py` the only modules that know DeepSpeed's API (0.19.8).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from policies.neuron_reset import NeuronReset

MASTER = "master"
"""The float32 weights that the optimizer steps."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each entry."""


def parts(engine: Any, parameter: Any) -> Iterator[tuple[str, int, Tensor]]:
    """Yield what this rank's optimizer holds of a parameter; change it in place before asking for the next.

    Yields:
        `MASTER` or one of `MOMENTS` (none before the first step); the first entry of the flattened parameter that this
        rank holds; [n] float32, that entry and those after it. Where the rank holds none of the parameter, nothing
        under ZeRO 1 and 2, and n is 0 under ZeRO-3.
    """
    optimizer = engine.optimizer
    if engine.zero_optimization_partition_weights():
        yield from _parts_of_stage_3(optimizer, parameter)
        return
    if engine.zero_optimization():  # one flat partition per rank, anywhere in which the parameter may begin and end
        piece = parameter._hp_mapping
        if piece is None:
            return
        flat = optimizer.optimizer.param_groups[piece.param_group_index]["params"][0]
        place = piece.hp_fragment_address
        for name, whole in _of(flat, optimizer.optimizer.state):
            yield name, piece.lp_fragment_address.start, whole[place.start : place.start + place.numel]
        return
    state, master = optimizer.state, parameter
    if hasattr(optimizer, "fp32_groups"):  # bfloat16 without ZeRO
        pairs = zip(chain(*optimizer.fp16_groups), chain(*optimizer.fp32_groups), strict=True)
        master = next(high for low, high in pairs if low is parameter)
    for name, whole in _of(master, state):
        yield name, 0, whole.view(-1)


def _of(master: Tensor, state: Any) -> Iterator[tuple[str, Tensor]]:
    yield MASTER, master.data
    moments = state.get(master, {})
    for name in MOMENTS:
        if name in moments:
            yield name, moments[name]


def _parts_of_stage_3(optimizer: Any, parameter: Any) -> Iterator[tuple[str, int, Tensor]]:
    from deepspeed.utils import (
        safe_get_local_fp32_param,
        safe_get_local_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    start = torch.distributed.get_rank() * parameter.partition_numel()
    held = max(0, parameter.ds_numel - start)  # the last partitions are padded
    values = safe_get_local_fp32_param(parameter)
    yield MASTER, start, values[:held]
    safe_set_local_fp32_param(parameter, values)  # of an offloaded optimizer `values` was a copy
    if not any(MOMENTS[0] in state for state in optimizer.state.values()):
        return
    for name in MOMENTS:
        values = safe_get_local_optimizer_state(parameter, name)
        yield name, start, values[:held]
        safe_set_local_optimizer_state(parameter, values, name)


def overwrite(engine: Any, parameter: Any, reset: NeuronReset) -> None:
    """Move the chosen entries of the master weights, zero their moments, and copy them into the model's weights.

    Every rank calls it; under ZeRO 1 and 2 ranks exchange the master weights of this one parameter. Under ZeRO-3 call
    it inside `zero.weights_apart`.
    """
    chosen, goal = reset.chosen(), reset.goal()
    with torch.no_grad():
        for name, start, values in parts(engine, parameter):
            here = slice(start, start + len(values))
            where = chosen[here].to(values.device)
            if name == MASTER:
                values[where] = reset.moved(values[where], goal[here].to(values.device)[where])
            else:
                values[where] = 0.0
        weights, start, master = _weights_and_master(engine, parameter)
        where = chosen[start : start + len(master)].to(weights.device)
        weights[: len(master)][where] = master.to(weights.device)[where].to(weights.dtype)


def _weights_and_master(engine: Any, parameter: Any) -> tuple[Tensor, int, Tensor]:
    """This rank's flattened weights of a parameter, its first entry, and the master weights of the same entries."""
    if engine.zero_optimization() and not engine.zero_optimization_partition_weights():
        from deepspeed.utils import safe_get_full_fp32_param

        return parameter.data.view(-1), 0, safe_get_full_fp32_param(parameter).view(-1)
    held = parts(engine, parameter)
    _, start, master = next(held)
    partitioned = engine.zero_optimization_partition_weights()
    return parameter.ds_tensor if partitioned else parameter.data.view(-1), start, master
