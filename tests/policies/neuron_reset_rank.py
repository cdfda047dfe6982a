"""Learner groups of one and of two ranks: reset neurons between updates and write down what became of every entry.

`python tests/policies/neuron_reset_rank.py CHECKPOINT OUT PORT PORT`. Entries are compared here, with indices into full
tensors: all states of all engines together would be half a gigabyte.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from learner_rank import LINEAR, gradients, minibatch, weights
from ranks import main
from torch import Tensor

from configs.learner import LearnerConfig
from orchestrator.learning import LearnerWorker
from orchestrator.parcel import Parcel, read_small_files
from orchestrator.rejuvenating import read_tensors
from orchestrator.transport import InProcessTransport, publish, receive
from policies.learner import Learner
from policies.losses import Loss
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.criteria.weights import random_neurons
from rejuvenation.neurons import NeuronTable

SETTINGS = [(stage, dtype) for stage in (0, 1, 2, 3) for dtype in ("float32", "bfloat16")]
KINDS = ("masters", "exp_avg", "exp_avg_sq")
STRENGTH = 0.25
CUT_ROWS = {"gate": 320, "up": 205}
"""Where halves of the gate end (ZeRO-3), and halves of all parameters in a row (ZeRO 1 and 2)."""
SAMPLES = minibatch(6, seed=3)
State = dict[str, Any]


def chosen_masks(checkpoint: str) -> dict[str, tuple[int, Tensor]]:
    """A random quarter of all neurons, and the rows in which partitions of two ranks end (see test_neuron_reset.py)."""
    table = NeuronTable.of(CheckpointReader(checkpoint))
    selected = random_neurons(table.total, table.total // 4, seed=1)
    for module in table.modules:
        if module.kind in CUT_ROWS:
            selected[module.offset + CUT_ROWS[module.kind]] = True
    return table.masks(selected)


def target_tensors(checkpoint: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(t.shape, generator=generator) for name, t in read_tensors(checkpoint)}


def state_of(learner: Learner) -> State:
    """Weights, and in full what the optimizer holds, read as DeepSpeed documents it; by checkpoint name."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    engine = learner._engine
    state: State = {"weights": weights(learner), "masters": {}, "exp_avg": {}, "exp_avg_sq": {}}
    named = [(name.removeprefix("model."), parameter) for name, parameter in engine.module.named_parameters()]
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    masters = [p for group in inner.param_groups for p in group["params"]]
    for index, (name, parameter) in enumerate(named):
        if learner.config.zero_stage == 0:
            state["masters"][name] = masters[index].detach().clone()
            for kind in KINDS[1:]:
                state[kind][name] = inner.state[masters[index]][kind].clone()
        else:
            state["masters"][name] = safe_get_full_fp32_param(parameter).clone()
            for kind in KINDS[1:]:
                state[kind][name] = safe_get_full_optimizer_state(parameter, kind).clone()
    state["steps"] = [float(entry["step"]) for entry in inner.state.values()]
    return state


def reset(state: State, masks: Any, targets: dict[str, Tensor] | None, strength: float) -> State:
    """The same surgery on full tensors, neuron by neuron."""
    wanted = {kind: {name: t.clone() for name, t in state[kind].items()} for kind in ("weights", *KINDS)}
    for name, (axis, mask) in masks.items():
        for neuron in mask.nonzero()[:, 0].tolist():
            entries = (neuron,) if axis == 0 else (slice(None), neuron)
            target = targets[name][entries] if targets is not None else 0.0
            master = (1 - strength) * state["masters"][name][entries] + strength * target
            wanted["masters"][name][entries] = master
            wanted["weights"][name][entries] = master.to(wanted["weights"][name].dtype)
            wanted["exp_avg"][name][entries] = 0.0
            wanted["exp_avg_sq"][name][entries] = 0.0
    return wanted | {"steps": state["steps"]}


def adamw_step(state: State, grads: dict[str, Tensor], config: LearnerConfig) -> dict[str, Tensor]:
    """Master weights after a step of plain torch AdamW that continues from `state`."""
    after = {}
    for name, master in state["masters"].items():
        parameter = torch.nn.Parameter(master.clone())
        parameter.grad = grads[name].float()
        optimizer = torch.optim.AdamW(
            [parameter], config.lr, (config.beta1, config.beta2), config.eps, config.weight_decay
        )
        moments = {kind: state[kind][name].clone() for kind in KINDS[1:]}
        optimizer.state[parameter] = {"step": torch.tensor(state["steps"][0]), **moments}
        optimizer.step()
        after[name] = parameter.detach()
    return after


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def differing(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal to the last bit."""
    assert found.keys() == wanted.keys()
    return [n for n in wanted if found[n].dtype != wanted[n].dtype or not torch.equal(bits(found[n]), bits(wanted[n]))]


def gap(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Largest difference of an entry, in units of its tensor's largest entry."""
    return max(float((found[n] - wanted[n]).abs().max() / wanted[n].abs().max()) for n in wanted)


def step(learner: Learner) -> tuple[dict[str, Tensor], State]:
    learner.backward(SAMPLES, Loss("sft"))
    grads = gradients(learner)
    learner.step()
    return grads, state_of(learner)


def run(checkpoint: str, out: Path, ranks: int, rank: int, stage: int, dtype: str) -> dict[str, Any]:
    config = LearnerConfig(ranks=ranks, zero_stage=stage, dtype=dtype, micro_batch_tokens=64, grad_clip=0.0, **LINEAR)
    transport = InProcessTransport()
    worker = LearnerWorker(rank, ranks, transport, 200_000)
    parcel = Parcel(read_small_files(checkpoint), publish(transport, read_tensors(checkpoint), 200_000, 0))
    worker.load(parcel, config, 0, False, 60.0)
    learner: Learner = worker._learner
    masks, targets = chosen_masks(checkpoint), target_tensors(checkpoint)
    handles = publish(transport, targets.items(), 200_000, 0)
    for _ in range(2):
        worker.update(SAMPLES, Loss("sft"))

    before = state_of(learner)
    worker.save(str(out / f"checkpoint_{ranks}_{stage}_{dtype}"))
    worker.reset_neurons(masks, handles, 1.0, 60.0)
    after, wanted = state_of(learner), reset(before, masks, targets, 1.0)
    found: dict[str, Any] = {kind: differing(after[kind], wanted[kind]) for kind in ("weights", *KINDS)}
    found["untouched"] = [name for name in masks if name not in differing(after["weights"], before["weights"])]
    found["moments before"] = min(float(before[k][n].abs().max()) for n in masks for k in KINDS[1:])
    found["steps"] = before["steps"], after["steps"]
    published = {name: t for bucket in receive(transport, worker.publish(1), 60.0) for name, t in bucket}
    found["published"] = differing(published, wanted["weights"]) if rank == 0 else []
    grads, stepped = step(learner)
    found["step"] = gap(stepped["masters"], adamw_step(wanted, grads, config))
    found["cast"] = differing(
        stepped["weights"], {n: t.to(getattr(torch, dtype)) for n, t in stepped["masters"].items()}
    )
    found["stepped"] = stepped["weights"] if dtype == "float32" else {}

    worker.restore(str(out / f"checkpoint_{ranks}_{stage}_{dtype}"))  # the moments are there, not yet linked to weights
    worker.reset_neurons(masks, None, STRENGTH, 60.0)
    faded = reset(before, masks, None, STRENGTH)
    found["resumed weights"] = differing(weights(learner), faded["weights"])
    grads, stepped = step(learner)
    found["resumed step"] = gap(stepped["masters"], adamw_step(faded, grads, config))

    start = dict(read_tensors(checkpoint))
    for tensor in start.values():
        tensor.view(-1)[::7] = -0.0
    learner.load_weights(start.items())  # without any moment yet
    held = weights(learner)
    worker.reset_neurons(masks, handles, 1.0, 60.0)
    fresh = reset(
        {k: held if k == "weights" else start for k in ("weights", *KINDS)} | {"steps": []}, masks, targets, 1.0
    )
    found["fresh"] = differing(weights(learner), fresh["weights"])
    found["refused"] = refusal(learner, masks)
    found["after refusal"] = differing(weights(learner), fresh["weights"])
    worker.close()
    return found


def refusal(learner: Learner, masks: dict[str, tuple[int, Tensor]]) -> str:
    try:
        learner.reset_neurons({**masks, "model.norm.weight": (0, torch.ones(3, dtype=torch.bool))})
    except ValueError as error:
        return str(error)
    return ""


def run_rank(checkpoint: str, out: Path, ranks: int, rank: int) -> dict[Any, Any]:
    return {setting: run(checkpoint, out, ranks, rank, *setting) for setting in SETTINGS}


if __name__ == "__main__":
    sys.exit(main(run_rank, *sys.argv[1:]))
