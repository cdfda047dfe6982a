"""The held-out task sets of an evaluation, with everything settled that the configuration leaves to the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from configs.environment import SETS, EnvironmentConfig, EvaluationConfig, EvaluationSetConfig
from configs.errors import ConfigError
from configs.model import ModelConfig
from configs.run import RunConfig
from envs.processes import open_environment
from orchestrator.environment_pool import close_quietly
from orchestrator.tool_forms import check_tool_messages

KINDS = {"id": "in distribution", "ood": "out of distribution"}
"""Kind of a set, for people: whether its tasks are like those of training."""


@dataclass(frozen=True, slots=True)
class TaskSet:
    """A held-out set as it is measured."""

    name: str
    kind: str
    """`id` or `ood`."""
    environment: EnvironmentConfig
    tasks: int
    """Tasks that are decoded greedily."""
    sampled_tasks: int
    """The first of them, which are sampled, too."""
    samples: int
    """Sampled episodes per sampled task."""
    k: int
    temperature: float
    """Of the sampled episodes."""
    max_tokens: int
    """Longest assistant turn."""

    @property
    def setting(self) -> dict[str, Any]:
        """What results on the set depend on, as plain values; where its environment runs is no part of it."""
        plain = asdict(self)
        for name in ("isolation", "memory_bytes", "episodes_per_process"):
            del plain["environment"][name]
        return plain

    @property
    def episodes(self) -> int:
        """How many episodes one evaluation runs."""
        return self.tasks + self.samples * self.sampled_tasks


def task_sets(config: RunConfig) -> list[TaskSet]:
    """The sets of a run (or of an evaluation alone), in the order of the configuration.

    Raises:
        ConfigError: a set without an environment of its own where there is no training environment.
    """
    return [settle(s, config.evaluation, config.environment, config.rollout.max_tokens) for s in config.evaluation.sets]


def settle(
    given: EvaluationSetConfig, evaluation: EvaluationConfig, training: EnvironmentConfig, max_tokens: int
) -> TaskSet:
    """One set, with the run's values where it gives none.

    Args:
        given: as configured.
        evaluation: the section that the set stands in.
        training: the training environment; its id is empty where there is none.
        max_tokens: longest assistant turn of the run.

    Raises:
        ConfigError: there is no environment.
    """
    if given.environment is not None:
        environment = replace(training, id=given.environment, kwargs=dict(given.kwargs), wrappers=list(given.wrappers))
    elif training.id:
        environment = replace(
            training, kwargs={**training.kwargs, **given.kwargs}, wrappers=[*training.wrappers, *given.wrappers]
        )
    else:
        fix = "Name one there (`rejuvenate env list` shows ids), or add the configuration of the training run."
        raise ConfigError(f"{SETS}{given.name}.environment", "must be given without a training environment", None, fix)
    return TaskSet(
        given.name,
        given.kind,
        environment,
        given.tasks,
        given.sampled_tasks or given.tasks,
        given.samples or evaluation.samples,
        given.k or evaluation.k,
        given.temperature or evaluation.temperature,
        given.max_tokens or max_tokens,
    )


class Tried(NamedTuple):
    """What an environment that could be made says of itself."""

    num_tasks: int | None
    """None: as many as wanted."""
    uses_user_model: bool
    """Whether it talks to the model that the run serves."""


def check(sets: Sequence[TaskSet], model: ModelConfig) -> bool:
    """Make the environment of every set once.

    Args:
        sets: of an evaluation.
        model: what acts in them.

    Returns:
        Whether one of them talks to the model that the run serves.

    Raises:
        ConfigError: one that cannot be made, that has fewer tasks than the set, or whose tools the model's chat
            template does not take.
    """
    served = False
    for task_set in sets:
        section = f"{SETS}{task_set.name}."
        most, uses_user_model = try_environment(task_set.environment, model, section)
        served = served or uses_user_model
        if most is not None and task_set.tasks > most:
            rule = f"must be <= {most}, the number of tasks of its environment"
            raise ConfigError(section + "tasks", rule, task_set.tasks, f"Set it to {most}.")
    return served


def try_environment(environment: EnvironmentConfig, model: ModelConfig, section: str | None = None) -> Tried:
    """Make an environment and close it.

    Args:
        environment: any.
        model: what acts in it.
        section: what its fields begin with in messages, where it belongs to a set.

    Returns:
        What it says of itself.

    Raises:
        ConfigError: whatever is wrong with it, in the fields of `section`; or the model's chat template does not take
            its tools.
    """
    try:
        env = open_environment(environment)
        own = env.unwrapped
        tried = Tried(getattr(own, "num_tasks", None), bool(getattr(own, "uses_user_model", False)))
    except ConfigError as error:
        if section is None:
            raise
        raise ConfigError(_moved(error.field, section), error.rule, error.value, _moved(error.fix, section)) from error
    except Exception as error:  # the user's code
        field = "environment.id" if section is None else section + "environment"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        fix = f"`rejuvenate env check {environment.id}` shows where."
        raise ConfigError(
            field, f"must name an environment that can be made ({reason})", environment.id, fix
        ) from error
    try:
        check_tool_messages(model, env)
    finally:
        close_quietly(env)
    return tried


def _moved(text: str, section: str) -> str:
    """`environment.kwargs.split` -> `evaluation.sets.NAME.kwargs.split`, in a message."""
    for ours in ("kwargs", "wrappers"):
        text = text.replace(f"environment.{ours}", section + ours)
    return text.replace("environment.id", section + "environment")
