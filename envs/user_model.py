"""The model that a run serves beside the policy, as environments find it: its address and its token in two variables.

The orchestrator sets them wherever environments run; nobody else has to. An environment that talks to the model says so
with `uses_user_model = True`, so that a run without a `user_model` section is refused before anything starts.
"""

from __future__ import annotations

import os

from configs.errors import ConfigError

SERVED = "served"
"""In place of an address: that of the model which the run serves."""
URL_VARIABLE = "REJUVENATE_USER_MODEL_URL"
"""Environment variable with the address up to the version."""
KEY_VARIABLE = "REJUVENATE_USER_MODEL_KEY"
"""Environment variable with the token of this run; it is written nowhere."""
MODEL_NAME = "user-model"
"""Name of the model at that address, whatever its checkpoint is called."""


def served_url(field: str) -> str:
    """Return the address of the model that this run serves.

    Args:
        field: the setting that asks for it.

    Raises:
        ConfigError: this process belongs to no run that serves one.
    """
    url = os.environ.get(URL_VARIABLE)
    if not url:
        rule = "needs a run that serves a model"
        fix = "Give the run user_model.checkpoint, or name an endpoint that is there already."
        raise ConfigError(field, rule, SERVED, fix)
    return url
