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


SETS = "evaluation.sets."
"""What the fields of a task set begin with in messages; its name follows."""
LONGEST_NAME = 40


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
    environment: str | None = None
    """Id of an environment of the set's own, as in `environment.id`; null takes the training environment."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments: all that an environment of the set's own gets, else laid over `environment.kwargs` (the split,
    another difficulty)."""
    wrappers: list[WrapperConfig] = field(default_factory=list)
    """Gymnasium wrappers: all of an environment of the set's own, else put around those of `environment.wrappers`."""
    samples: int | None = None
    """Completions per sampled task; null takes `evaluation.samples`."""
    k: int | None = None
    """The k of this set's pass@k; null takes `evaluation.k`."""
    temperature: float | None = None
    """Sampling temperature; null takes `evaluation.temperature`."""
    max_tokens: int | None = None
    """Longest assistant turn in sampled tokens; null takes `rollout.max_tokens`."""

    def __post_init__(self) -> None:
        name = self.name
        if not (name.strip() == name and name.isprintable() and 0 < len(name) <= LONGEST_NAME and "/" not in name):
            rule = f"must be 1 to {LONGEST_NAME} characters without / or spaces at the ends"
            raise ConfigError(SETS + "name", rule, name, "Metrics are called eval/NAME/greedy: take `heldout`, say.")
        section = f"{SETS}{name}."
        bounds.one_of(section, "kind", self.kind, ("id", "ood"))
        bounds.at_least(section, "tasks", self.tasks, 1)
        if self.sampled_tasks is not None:
            bounds.within(section, "sampled_tasks", self.sampled_tasks, 1, self.tasks)
        for count in ("samples", "k", "max_tokens"):
            if getattr(self, count) is not None:
                bounds.at_least(section, count, getattr(self, count), 1)
        if self.temperature is not None:
            bounds.above(section, "temperature", self.temperature, 0)


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Evaluation before, during and after training, and by `rejuvenate eval`."""

    every_steps: int = 0
    """Evaluate after every so many training steps; 0 evaluates only before and after."""
    samples: int = 8
    """Completions per task for pass@k, at `temperature`; greedy decoding is measured beside it."""
    k: int = 8
    """The k of pass@k (unbiased estimator, arXiv 2107.03374)."""
    temperature: float = 1.0
    """Sampling temperature of the pass@k completions."""
    sets: list[EvaluationSetConfig] = field(default_factory=list)
    """The task sets. A file that holds nothing but this section is an evaluation suite (configs/suites/)."""

    def __post_init__(self) -> None:
        section = "evaluation."
        bounds.at_least(section, "every_steps", self.every_steps, 0)
        bounds.at_least(section, "samples", self.samples, 1)
        bounds.above(section, "temperature", self.temperature, 0)
        bounds.within(section, "k", self.k, 1, self.samples)
        names = [s.name for s in self.sets]
        if len(set(names)) != len(names):
            raise ConfigError(section + "sets", "must have distinct names", names, "Rename one of them.")
        for task_set in self.sets:
            k = self.k if task_set.k is None else task_set.k
            samples = self.samples if task_set.samples is None else task_set.samples
            if k > samples:
                rule = f"must be at most the number of samples ({samples})"
                fix = f"Give the set k: {samples} or less, or samples: {k} or more."
                raise ConfigError(f"{SETS}{task_set.name}.k", rule, k, fix)
