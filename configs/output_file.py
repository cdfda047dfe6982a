"""A file that a command writes where the user says: nothing that is there already is lost without being told to."""

from __future__ import annotations

import os
from pathlib import Path

from configs.errors import ConfigError

OVERWRITE_HELP = "Replace the file if it exists."
"""Of the option `--overwrite`, which every command that writes one file has. Directories are never replaced."""


def check_output_file(option: str, path: Path, *, overwrite: bool = False) -> None:
    """Check that a file can be written before anything starts, and make the folder it goes to.

    Args:
        option: by which it was given, for messages.
        path: as the user gave it.
        overwrite: whether one that exists is to be replaced.

    Raises:
        ConfigError: it exists and is not to be replaced, is no file, or cannot be written.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise ConfigError(option, "must be a file", str(path), "Name a file in a folder.")
    if os.path.lexists(path) and not overwrite:
        fix = "Choose another name, or add --overwrite to replace it."
        raise ConfigError(option, "must not exist yet: nothing is overwritten", str(path), fix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        rule = f"must be writable ({error.strerror})"
        raise ConfigError(option, rule, str(path), "Choose another path.") from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(option, f"must be writable ({path.parent} is not)", str(path), "Choose another path.")
