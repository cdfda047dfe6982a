"""Tools and the model's chat template: the form of calls for `tool_parser: auto`, and whether it takes answers."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import gymnasium

from configs.environment import EnvironmentConfig
from configs.model import ModelConfig
from envs.tool_calls import AUTO, form_of
from envs.tool_env import ToolEnv

log = logging.getLogger("rejuvenate")


def with_tool_form(environment: EnvironmentConfig, template: str) -> EnvironmentConfig:
    """Put the form that a chat template asks for in the place of `tool_parser: auto`.

    Args:
        environment: as configured; it is returned as it is where it does not say `auto`.
        template: text of the model's chat template for conversations with tools.
    """
    if environment.kwargs.get("tool_parser") != AUTO:
        return environment
    return dataclasses.replace(environment, kwargs={**environment.kwargs, "tool_parser": _form(template)})


@functools.cache  # the note comes once per process
def _form(template: str) -> str:
    """Return the template's form, Hermes' with a note where it shows none."""
    form = form_of(template)
    if form is None:
        log.warning("tool_parser: auto: the chat template shows no known form of tool calls; hermes is taken")
    return form or "hermes"


def check_tool_messages(model: ModelConfig, env: gymnasium.Env[Any, Any]) -> None:
    """Check, before anything is started, that the policy's chat template takes the messages of an environment's tools.

    A checkpoint that is not on this machine is checked where its tokenizer is loaded.

    Args:
        model: whose tokenizer renders.
        env: the environment; nothing is checked where it has no tools.

    Raises:
        ConfigError: the template refuses tool messages, or is none that can be rendered with; the error holds the
            template's own.
    """
    directory = Path(model.base if model.start == "base" else model.sft)
    if isinstance(env.unwrapped, ToolEnv) and (directory / "tokenizer.json").is_file():
        from policies.rendering import load_renderer

        load_renderer(directory).check_tool_messages()
