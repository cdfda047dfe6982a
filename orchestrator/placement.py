"""What a run asks of a cluster, and whether the cluster has it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.run import RunConfig

USER_MODEL = "user-model"
"""Name of the bundle, the actor and the log of the user model."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Resources that must lie on one node."""

    name: str
    cpus: float
    gpus: int


@dataclass(frozen=True, slots=True)
class Node:
    """What one node has."""

    cpus: float
    gpus: int


def bundles(config: RunConfig, *, learners: bool = True, rollouts: bool = True) -> list[Bundle]:
    """One bundle per learner rank, rollout worker and host of environments' processes, and one for the user model.

    The rejuvenation actor is a guest in the first.
    """
    wanted = []
    if learners:
        gpus = 1 if config.learner.device == "cuda" else 0
        wanted += [Bundle(f"learner-{i}", config.learner.cpus, gpus) for i in range(config.learner.ranks)]
    if rollouts:
        gpus = config.rollout.tensor_parallel if config.rollout.device == "cuda" else 0
        wanted += [Bundle(f"rollout-{i}", config.rollout.cpus, gpus) for i in range(config.rollout.workers)]
        if config.environment.isolation == "process":
            hosts = config.rollout.workers * config.rollout.env_hosts
            wanted += [Bundle(f"environments-{i}", config.rollout.env_cpus, 0) for i in range(hosts)]
        served = config.user_model
        if served is not None:
            wanted.append(Bundle(USER_MODEL, served.cpus, served.tensor_parallel if served.device == "cuda" else 0))
    return wanted


def shortage(wanted: Sequence[Bundle], nodes: Sequence[Node]) -> str | None:
    """Why `wanted` does not fit on `nodes` (largest bundles first, first node that fits); None when it does."""
    free = [[node.cpus, float(node.gpus)] for node in nodes]
    for bundle in sorted(wanted, key=lambda b: (-b.gpus, -b.cpus)):
        for room in free:
            if room[0] + 1e-9 >= bundle.cpus and room[1] >= bundle.gpus:
                room[0] -= bundle.cpus
                room[1] -= bundle.gpus
                break
        else:
            cpus, gpus = sum(b.cpus for b in wanted), sum(b.gpus for b in wanted)
            has_cpus, has_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
            short = []
            if gpus > has_gpus:
                short.append(f"{gpus - has_gpus} GPUs short")
            if cpus > has_cpus:
                short.append(f"{cpus - has_cpus:g} CPUs short")
            why = ", ".join(short) or "no single node has room for it beside the others"
            return (
                f"{bundle.name} needs {bundle.cpus:g} CPUs and {bundle.gpus} GPUs on one node; the run wants "
                f"{cpus:g} CPUs and {gpus} GPUs in {len(wanted)} bundles, the cluster has {has_cpus:g} CPUs and "
                f"{has_gpus} GPUs on {len(nodes)} node(s): {why}."
            )
    return None


def parse_cluster(text: str) -> list[Node]:
    """`nodes=2,gpus=8,cpus=64` (gpus and cpus per node) -> the nodes.

    Raises:
        ConfigError: not of that form.
    """
    values = {"nodes": 1, "gpus": 0, "cpus": 0}
    for part in text.split(","):
        key, equals, number = part.partition("=")
        if key.strip() not in values or not equals or not number.strip().isdecimal():
            raise ConfigError(
                "--cluster",
                "must read nodes=N,gpus=N,cpus=N (gpus and cpus per node)",
                text,
                "Say nodes=1,gpus=8,cpus=64.",
            )
        values[key.strip()] = int(number)
    if values["nodes"] < 1 or values["cpus"] < 1:
        raise ConfigError("--cluster", "must have at least one node with at least one CPU", text, "Say nodes=1,cpus=8.")
    return [Node(values["cpus"], values["gpus"])] * values["nodes"]


def this_machine(config: RunConfig) -> list[Node]:
    """This machine as the one node of a local cluster: cores this process may use (or `cluster.num_cpus`) and GPUs."""
    cpus = config.cluster.num_cpus or len(os.sched_getaffinity(0))
    gpus = Path("/proc/driver/nvidia/gpus")
    return [Node(cpus, len(list(gpus.iterdir())) if gpus.is_dir() else 0)]
