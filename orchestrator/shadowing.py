"""The five packages have plain names; check that each one imported is ours."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from configs.errors import ConfigError

PACKAGES = ("configs", "envs", "policies", "rejuvenation", "orchestrator")


def check_packages() -> None:
    """Raise `ConfigError` when a folder of the user's own hides one of our packages."""
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != home / name:
            raise ConfigError(
                f"package {name}",
                f"must be the one in {home}",
                str(found or (list(spec.submodule_search_locations or []) if spec else None)),
                f"Rename your own `{name}` folder or module, or start from another directory.",
            )


def prepare_imports() -> None:
    """Check the packages, and let modules in the working directory be found, as `python -m` does."""
    check_packages()
    if os.getcwd() not in sys.path:  # a console script has not: `environment.id=my_env:MyEnv` is found where one works
        sys.path.append(os.getcwd())
