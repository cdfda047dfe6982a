"""Where the tests find data of others, which are no part of the project: they are read in place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "REJUVENATE_DATA"
_MISSING = (
    "{what} are missing: set " + VARIABLE + " to the folder that holds {name}/ "
    "(by default ../shared/data; docs/environments.md says how to make it)"
)
REASON = _MISSING.format(what="tau-bench's retail data", name="tau_bench_retail")


def retail_folder() -> Path:
    """Return the folder with tau-bench's retail data."""
    return data_folder("tau_bench_retail", "tau-bench's retail data")


def data_folder(name: str, what: str) -> Path:
    """Return a folder of data; without it the test is skipped, or fails where `CI` is set."""
    root = os.environ.get(VARIABLE) or Path(__file__).parents[2] / "shared" / "data"
    folder = Path(root) / name
    if not folder.is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(_MISSING.format(name=name, what=what))
    return folder
