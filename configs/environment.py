"""Environment: the task RL trains on, and the task sets it is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs import bounds
from configs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class WrapperConfig:
    """A gymnasium wrapper and its keyword arguments."""

    id: str = "???"
    """`package.module:Class`, for example `gymnasium.wrappers:TimeLimit`."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the wrapper, beside `env`."""


@dataclass(frozen=True, slots=True)
class EnvironmentConfig:
    """A gymnasium environment, its keyword arguments and what is put around it."""

    id: str = "???"
    """A registered gymnasium id (`rejuvenate/Arithmetic-v0`), `package.module:Class` of a user's own, or
    `package:Id-v0` of an id that importing the package registers."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment; the training split unless they say otherwise."""
    wrappers: list[WrapperConfig] = field(default_factory=list)
    """Gymnasium wrappers, the innermost first: `[{id: gymnasium.wrappers:TimeLimit, kwargs: {max_episode_steps: 4}}]`.
    Demonstrations come from the environment itself."""
    isolation: str = "thread"
    """Where it runs: `thread` of the rollout worker, or a `process` of its own, for one that is heavy or not to be
    trusted: what it raises, hangs in, leaks or forks costs its own episode and is killed."""
    memory_bytes: int = 2_147_483_648
    """Most memory in bytes of one environment's processes together (`isolation: process`)."""
    episodes_per_process: int = 0
    """Episodes after which an environment's process is replaced by a new one (`isolation: process`); 1: what one
    leaves behind no other sees; 0: as many as it survives, with `reset` in between."""

    def __post_init__(self) -> None:
        section = "environment."
        bounds.one_of(section, "isolation", self.isolation, ("thread", "process"))
        bounds.at_least(section, "memory_bytes", self.memory_bytes, 256 << 20)
        bounds.at_least(section, "episodes_per_process", self.episodes_per_process, 0)


@dataclass(frozen=True, slots=True)
class EvaluationSetConfig:
    """One held-out set of tasks."""

    name: str = "???"
    """Name in metrics and tables, for example `heldout` or `ood`."""
    kind: str = "id"
    """`id` (same distribution as training) or `ood`."""
    tasks: int = 100
    """Number of tasks, the first of the environment's split; each is decoded greedily once."""
    sampled_tasks: int | None = None
    """How many of the tasks, the first ones, are also sampled for pass@k; null samples all."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments laid over `environment.kwargs` (the split, another difficulty)."""

    def __post_init__(self) -> None:
        bounds.one_of("evaluation.sets.", "kind", self.kind, ("id", "ood"))
        bounds.at_least("evaluation.sets.", "tasks", self.tasks, 1)
        if self.sampled_tasks is not None:
            bounds.within("evaluation.sets.", "sampled_tasks", self.sampled_tasks, 1, self.tasks)


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Evaluation before, during and after training."""

    every_steps: int = 0
    """Evaluate after every so many training steps; 0 evaluates only before and after."""
    samples: int = 8
    """Completions per task for pass@k, at `temperature`; greedy decoding is measured beside it."""
    k: int = 8
    """The k of pass@k (unbiased estimator, arXiv 2107.03374)."""
    temperature: float = 1.0
    """Sampling temperature of the pass@k completions."""
    sets: list[EvaluationSetConfig] = field(default_factory=list)
    """The task sets."""

    def __post_init__(self) -> None:
        section = "evaluation."
        bounds.at_least(section, "every_steps", self.every_steps, 0)
        bounds.at_least(section, "samples", self.samples, 1)
        bounds.above(section, "temperature", self.temperature, 0)
        bounds.within(section, "k", self.k, 1, self.samples)
        names = [s.name for s in self.sets]
        if len(set(names)) != len(names):
            raise ConfigError(section + "sets", "must have distinct names", names, "Rename one of them.")
