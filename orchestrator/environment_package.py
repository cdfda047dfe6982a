"""A package of a user's own with one environment, written from the templates beside this file."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from string import Template

from configs.errors import ConfigError
from orchestrator.shadowing import PACKAGES

TEMPLATES = Path(__file__).parent / "environment_template"
FILES = {
    "pyproject.toml": "pyproject.toml",
    "__init__.py": "{name}/__init__.py",
    "environment.py": "{name}/environment.py",
    "test_environment.py": "tests/test_environment.py",
}
"""Template, without its ending `.txt` -> file in the package's folder."""


def write_package(name: str, directory: Path) -> Path:
    """Write the package; nothing is overwritten.

    Args:
        name: of the package, its distribution and the folder around both.
        directory: where the folder is made.

    Returns:
        The folder.

    Raises:
        ConfigError: the name cannot be that of a new package, or there is such a folder.
    """
    check_name(name)
    root = directory / name
    if root.exists():
        raise ConfigError("NAME", "must not exist yet as a folder or file", str(root), "Choose another name.")
    if not directory.is_dir():
        raise ConfigError("--directory", "must be a folder", str(directory), "Make it first.")
    for template, file in FILES.items():
        text = Template((TEMPLATES / f"{template}.txt").read_text(encoding="utf-8"))
        path = root / file.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.substitute(name=name, cls=class_name(name)), encoding="utf-8")
    return root


def class_name(name: str) -> str:
    """Return the name of the environment's class: `my_env` gives `MyEnv`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def check_name(name: str) -> None:
    """Raise `ConfigError` unless a new package can have this name."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        fix = "Use lower-case letters, digits and _, beginning with a letter: my_env, say."
        raise ConfigError("NAME", "must be usable as the name of a package", name, fix)
    fix = f"Two packages of one name hide each other; call it my_{name}, say."
    if name in PACKAGES or name == "tests":
        raise ConfigError("NAME", "must not be that of a package of this framework, or `tests`", name, fix)
    if name in sys.stdlib_module_names:
        raise ConfigError("NAME", "must not be that of a module of Python's own", name, fix)
    known = {(found.name or "").lower().replace("-", "_") for found in distributions()}
    spec = find_spec(name)
    if name in known:
        raise ConfigError("NAME", "must not be that of an installed package", name, fix)
    if spec is not None and spec.origin is not None:  # a folder without modules is no package yet
        rule = f"must not be that of another module that can be imported ({spec.origin})"
        raise ConfigError("NAME", rule, name, fix)
