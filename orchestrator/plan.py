"""`rejuvenate plan`: everything but the start. Validate, count, and compare with the cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from configs.checkpoint import read_config, shape_of
from configs.loader import to_yaml
from configs.model import ShapeConfig
from configs.run import RunConfig
from orchestrator.placement import Bundle, Node, bundles, shortage
from orchestrator.task_sets import KINDS, task_sets

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def batch_arithmetic(config: RunConfig) -> list[tuple[str, str]]:
    """How prompts become optimizer steps, as (what, count) rows."""
    algorithm, learner, rollout = config.algorithm, config.learner, config.rollout
    sequences = algorithm.prompts_per_step * algorithm.group_size
    per_minibatch = sequences // algorithm.minibatches
    per_micro_batch = max(1, learner.micro_batch_tokens // rollout.max_model_len)
    micro_batches = math.ceil(math.ceil(per_minibatch / per_micro_batch) / learner.ranks)
    evaluated = sum(task_set.episodes for task_set in task_sets(config))
    return [
        ("training steps", f"{algorithm.steps}"),
        ("prompts (groups) per step", f"{algorithm.prompts_per_step}"),
        ("completions per prompt", f"{algorithm.group_size}"),
        ("sequences per step", f"{sequences} = {algorithm.prompts_per_step} x {algorithm.group_size}"),
        (
            "sequences per rollout worker",
            f"at most {math.ceil(algorithm.prompts_per_step / rollout.workers) * algorithm.group_size}",
        ),
        ("optimizer steps per step", f"{algorithm.minibatches}, of {per_minibatch} sequences"),
        ("optimizer steps in all", f"at most {algorithm.steps * algorithm.minibatches}"),
        (
            "micro-batches per rank",
            f"at most {micro_batches} per optimizer step, of {learner.micro_batch_tokens} tokens",
        ),
        ("longest episode", f"{rollout.max_model_len} tokens, {rollout.max_tokens} per turn"),
        ("sequences in all", f"{sequences * algorithm.steps}"),
        ("evaluation episodes", f"{evaluated} each time"),
    ]


def evaluation(config: RunConfig) -> list[tuple[str, str]]:
    """The task sets and what each evaluation runs on them, as (name, episodes) rows."""
    return [
        (
            s.name,
            f"{KINDS[s.kind]}, {s.environment.id}: {s.episodes} episodes = {s.tasks} greedy + {s.sampled_tasks} x "
            f"{s.samples} sampled",
        )
        for s in task_sets(config)
    ]


def memory(config: RunConfig, shape: ShapeConfig) -> list[tuple[str, str]]:
    """Bytes of weights and optimizer states, as (what, size) rows; activations and caches come on top."""
    count = shape.num_parameters
    learner = config.learner
    weights = count * BYTES[learner.dtype]
    gradients = weights
    states = count * (8 if learner.dtype == "float32" else 12)  # two moments, and a float32 copy beside bfloat16
    shard = [
        weights / (learner.ranks if learner.zero_stage >= 3 else 1),
        gradients / (learner.ranks if learner.zero_stage >= 2 else 1),
        states / (learner.ranks if learner.zero_stage >= 1 else 1),
    ]
    engine = count * BYTES[config.rollout.dtype] / config.rollout.tensor_parallel
    served = user_model_parameters(config)
    user_model = []
    if config.user_model is not None and served:
        weights_bytes = served * BYTES[config.user_model.dtype] / config.user_model.tensor_parallel
        user_model = [("user model, weights per device", size(weights_bytes))]
    return [
        ("parameters", f"{count:,}"),
        ("learner rank, weights + gradients + optimizer", size(sum(shard))),
        ("engine, weights per device", size(engine)),
        *user_model,
        ("one publication", size(count * BYTES[learner.dtype])),
    ]


def user_model_parameters(config: RunConfig) -> int:
    """Parameters of the user model; 0 where there is none, or its checkpoint is not on this machine."""
    if config.user_model is None or not (Path(config.user_model.checkpoint) / "config.json").is_file():
        return 0
    field = "user_model.checkpoint"
    return shape_of(read_config(field, config.user_model.checkpoint), field).num_parameters


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    raise AssertionError


def report(config: RunConfig, shape: ShapeConfig, nodes: Sequence[Node], source: str) -> tuple[str, str | None]:
    """The plan as text, and what is short (None when the run fits).

    Args:
        config: validated.
        shape: of the model.
        nodes: of the cluster.
        source: where `nodes` comes from, for people.
    """
    wanted = bundles(config) if config.launcher == "ray" else []
    short = shortage(wanted, nodes) if wanted else None
    lines = ["# configuration", to_yaml(config).rstrip(), "", "# batch arithmetic", *rows(batch_arithmetic(config))]
    if config.evaluation.sets:
        lines += ["", "# evaluation", *rows(evaluation(config))]
    lines += ["", "# model and memory", *rows(memory(config, shape))]
    lines += ["", "# placement", *placement(wanted, config.user_model is not None)]
    total = f"{sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes)} GPUs on {len(nodes)} node(s)"
    lines += [f"  cluster ({source}): {total}", f"  {'does not fit: ' + short if short else 'fits'}"]
    return "\n".join(lines), short


def placement(wanted: Sequence[Bundle], user_model: bool) -> list[str]:
    """One line per bundle."""
    if not wanted:
        served = ", the user model in processes of its own" if user_model else ""
        return [f"  all in this process (launcher: inline){served}"]
    lines = [f"  {b.name}: {b.cpus:g} CPUs, {b.gpus} GPUs" for b in wanted]
    return [*lines, f"  in all: {sum(b.cpus for b in wanted):g} CPUs, {sum(b.gpus for b in wanted)} GPUs"]


def rows(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Two aligned columns."""
    width = max(len(name) for name, _ in pairs)
    return [f"  {name:<{width}}  {value}" for name, value in pairs]
