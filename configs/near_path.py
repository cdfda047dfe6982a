"""The path that was probably meant where a given one does not exist."""

from __future__ import annotations

import difflib
from pathlib import Path


def near_path(path: Path) -> Path | None:
    """What lies beside a path that does not exist and is called nearly so; None where nothing is."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, names, n=1)
    return path.parent / near[0] if near else None


def did_you_mean(path: Path, otherwise: str) -> str:
    """`Did you mean PATH?`, or another sentence where nothing is called nearly so."""
    near = near_path(path)
    return otherwise if near is None else f"Did you mean {near}?"
