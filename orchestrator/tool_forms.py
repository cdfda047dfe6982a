"""The form of tool calls of a run: what an environment with `tool_parser: auto` gets from the model's chat template."""

from __future__ import annotations

import dataclasses
import functools
import logging

from configs.environment import EnvironmentConfig
from envs.tool_calls import AUTO, form_of

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
