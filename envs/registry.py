"""The ids of this package's environments, and how an environment is made from an id or from a user's own class."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from configs.environment import WrapperConfig
from configs.errors import ConfigError

GROUP = "rejuvenate.environments"
"""Entry point group in which an installed package names its environments: gymnasium id = `package.module:Class`."""

REGISTRATIONS: dict[str, str] = {
    "rejuvenate/Arithmetic-v0": "envs.arithmetic:ArithmeticEnv",
    "rejuvenate/Lookup-v0": "envs.lookup:LookupEnv",
    "rejuvenate/Retail-v0": "envs.retail.environment:RetailEnv",
}
"""Gymnasium id -> `package.module:Class`."""
WITHOUT_ID: dict[str, str] = {
    "envs.question_answer:QuestionAnswerEnv": "questions of a dataset; needs path",
    "envs.reasoning_gym:ReasoningGymEnv": "tasks of the package reasoning-gym; needs name",
    "envs.code_tool:CodeToolEnv": "a base for your own: the tool python(code), in a sandbox",
    "envs.search_tool:SearchToolEnv": "a base for your own: a tool that searches documents",
    "envs.memory_tool:MemoryToolEnv": "a base for your own: tools that keep notes",
    "envs.mcp_tools:McpToolEnv": "a base for your own: the tools of an MCP server",
}
"""`package.module:Class` of further environments, and what each is for."""


def installed() -> dict[str, str]:
    """Return id -> `package.module:Class` of the environments that installed packages offer; none is imported."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def register_all() -> None:
    """Register every environment of `REGISTRATIONS` and of installed packages; a second call changes nothing.

    The environments check the order of calls themselves, so gymnasium's wrappers for it are left out.
    """
    for environment_id, entry_point in {**installed(), **REGISTRATIONS}.items():
        if environment_id not in gymnasium.registry:
            gymnasium.register(environment_id, entry_point=entry_point, order_enforce=False, disable_env_checker=True)


def make(
    environment_id: str, kwargs: Mapping[str, Any] | None = None, wrappers: Iterable[WrapperConfig] = ()
) -> gymnasium.Env[Any, Any]:
    """Make an environment.

    Args:
        environment_id: a registered gymnasium id (`rejuvenate/Arithmetic-v0`), `package.module:Class` of a class of
            one's own, or `package.module:Id-v0` of an id that importing the module registers.
        kwargs: keyword arguments of the environment.
        wrappers: wrappers to put around it, the innermost first, beside those of its registration.

    Returns:
        The environment with its gymnasium `spec` set.

    Raises:
        ConfigError: unknown id, module or class, a class that is no `gymnasium.Env` or `gymnasium.Wrapper`, or a
            keyword it does not take.
    """
    spec = find_spec(environment_id)
    cls = load(str(spec.entry_point)) if isinstance(spec.entry_point, str) else spec.entry_point
    _check_kwargs(cls, kwargs or {}, spec.kwargs)
    around = tuple(_wrapper_spec(wrapper) for wrapper in wrappers)
    spec = replace(spec, additional_wrappers=spec.additional_wrappers + around)
    return gymnasium.make(spec, disable_env_checker=True, **(kwargs or {}))


def _wrapper_spec(wrapper: WrapperConfig) -> WrapperSpec:
    """Return a wrapper as gymnasium's registration has it."""
    field = "environment.wrappers.id"
    cls = load(wrapper.id, gymnasium.Wrapper, field)
    if not (isinstance(cls, type) and issubclass(cls, gymnasium.Wrapper)):
        raise ConfigError(field, "must name a subclass of gymnasium.Wrapper", wrapper.id, f"It is {cls!r}.")
    _check_kwargs(cls, wrapper.kwargs, {"env": None}, f"environment.wrappers.{wrapper.id}.")
    return WrapperSpec(cls.__name__, wrapper.id, dict(wrapper.kwargs))


def find_spec(environment_id: str) -> EnvSpec:
    """Return the gymnasium spec of an id or of `package.module:Class`."""
    if environment_id in gymnasium.registry:
        return gymnasium.registry[environment_id]
    module, colon, name = environment_id.partition(":")
    if not colon:
        raise _unknown("is not a registered id", environment_id, gymnasium.registry, REGISTRATIONS)
    if name not in vars(_import(module, environment_id)) and name in gymnasium.registry:
        return gymnasium.registry[name]
    cls = load(environment_id)
    if not (isinstance(cls, type) and issubclass(cls, gymnasium.Env)):
        raise ConfigError(
            "environment.id",
            "must name a subclass of gymnasium.Env",
            environment_id,
            f"{name} is {cls!r}; derive it from envs.ConversationEnv or envs.ToolEnv, say.",
        )
    return EnvSpec(id=environment_id, entry_point=environment_id, order_enforce=False, disable_env_checker=True)


def _import(module: str, environment_id: str, field: str = "environment.id") -> Any:
    """Import a user's module, and say what is wrong where that fails."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # the user's code runs at import
        missing = isinstance(error, ModuleNotFoundError) and error.name and module.startswith(error.name)
        fix = (
            "Run from the directory that holds the package, or install it."
            if missing
            else "Importing that module runs its code; make `python -c 'import ...'` of it work first."
        )
        raise ConfigError(field, f"names a module that cannot be imported ({error})", environment_id, fix) from error


def load(entry_point: str, kind: type = gymnasium.Env, field: str = "environment.id") -> Any:
    """Return the class that `package.module:Class` names; `kind` is what it should derive from."""
    module_name, _, name = entry_point.partition(":")
    module = _import(module_name, entry_point, field)
    if hasattr(module, name):
        return getattr(module, name)
    if (inside := _package_inside(module)) is not None:
        fix = f"Run it inside {inside}/, or pip install -e {inside}."
        raise ConfigError(field, f"names nothing in the folder {module_name}", name, fix)
    classes = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, kind)]
    raise _unknown(f"names nothing in module {module_name}", name, classes, classes, field)


def _package_inside(module: Any) -> str | None:
    """Return the folder that was taken for a module though the package of its name lies in it; None: it was not."""
    if getattr(module, "__file__", None) is not None:
        return None
    name = module.__name__.rpartition(".")[2]
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    found = [folder for folder in folders if (folder / name / "__init__.py").is_file()]
    return os.path.relpath(found[0]) if found else None


def _unknown(
    rule: str, name: str, known: Iterable[str], listed: Iterable[str], field: str = "environment.id"
) -> ConfigError:
    """Return the error for an unknown name, with the nearest known one."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if near:
        return ConfigError(field, rule, name, f"Did you mean {near[0]!r}?")
    names = ", ".join(listed) or "none"
    return ConfigError(field, rule, name, f"Known: {names}. Or give package.module:Class of your own.")


def _check_kwargs(
    cls: Any, kwargs: Mapping[str, Any], registered: Mapping[str, Any], section: str = "environment."
) -> None:
    """Raise `ConfigError` for a keyword argument that the constructor does not take, or needs and does not get.

    Args:
        cls: the class, or a function that makes an environment.
        kwargs: what the config gives.
        registered: what the environment's registration gives.
        section: where the config has them.
    """
    for missing in (name for name in _needed(cls) if name not in kwargs and name not in registered):
        fix = f"Set {section}kwargs.{missing}."
        raise ConfigError(f"{section}kwargs.{missing}", f"is needed by {cls.__name__}", None, fix)
    accepted = accepted_kwargs(cls)
    for name in kwargs:
        if accepted is not None and name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"It takes: {', '.join(sorted(accepted))}."
            raise ConfigError(f"{section}kwargs.{name}", f"is no argument of {cls.__name__}", kwargs[name], fix)


def _needed(cls: Any) -> list[str]:
    """Return the names of the parameters that have no default; `self`, `*args` and `**kwargs` are none."""
    parameters = inspect.signature(cls).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in named if p.default is p.empty]


def accepted_kwargs(cls: Any) -> set[str] | None:
    """Return the names that a class's constructor takes, following `**kwargs` to its bases; None: any name."""
    if not isinstance(cls, type):
        return None
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None
