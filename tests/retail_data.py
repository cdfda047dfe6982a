"""Where the tests find tau-bench's retail data, which are no part of the project: they are read in place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "REJUVENATE_DATA"
REASON = (
    f"tau-bench's retail data are missing: set {VARIABLE} to the folder that holds tau_bench_retail/ "
    "(by default ../shared/data; docs/environments.md says how to make it)"
)


def retail_folder() -> Path:
    """Return the folder with the data; without it the test is skipped, or fails where `CI` is set."""
    root = os.environ.get(VARIABLE) or Path(__file__).parents[2] / "shared" / "data"
    folder = Path(root) / "tau_bench_retail"
    if not folder.is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(REASON)
    return folder
