"""What an environment shows of itself on its training tasks: opening messages, tools and, if any, an expert."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from configs.environment import EnvironmentConfig
from envs.processes import open_environment


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One training task."""

    opening: list[dict[str, Any]]
    """The messages that the first turn answers."""
    messages: list[dict[str, Any]] | None
    """The expert's whole episode, up to its last assistant turn; None where there is no expert."""
    tools: list[dict[str, Any]] | None
    """JSON schemas of the tools; None without tools."""


def demonstrations(environment: EnvironmentConfig, count: int) -> list[Demonstration]:
    """The first `count` training tasks (fewer where the environment has fewer).

    Raises:
        ConfigError: the environment cannot be made, or its `max_turns` is too small for its expert.
    """
    with contextlib.closing(open_environment(replace(environment, wrappers=[]))) as env:
        make_task = getattr(env.unwrapped, "task", None)
        demonstrate = getattr(env.unwrapped, "demonstration", None)
        count = min(count, getattr(env.unwrapped, "num_tasks", None) or count)
        found = []
        for index in range(count):
            options: dict[str, Any] = {"task": make_task(index)} if callable(make_task) else {}
            if callable(demonstrate):  # whoever plays the user at a price is not asked
                options["demonstration"] = True
            observation, info = env.reset(seed=index, options=options or None)
            messages = demonstrate() if callable(demonstrate) else None
            while messages and messages[-1]["role"] != "assistant":  # an answer to the last turn teaches nothing
                messages = messages[:-1]
            opening = [dict(message) for message in observation]
            found.append(Demonstration(opening, messages or None, list(info.get("tools", [])) or None))
    return found
