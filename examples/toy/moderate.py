"""The moderate SFT checkpoints, which do not ship: rebuilt from the shipped bases in seconds."""

from __future__ import annotations

from pathlib import Path

from examples.toy import ladder, tool_build

HERE = Path(__file__).parent
BUILDERS = {"math": ladder.build_moderate, "tool": tool_build.build_moderate}


def ensure_moderate(task: str, directory: Path) -> Path:
    """Build the moderate checkpoint of `task` (`math` or `tool`) in `directory`, unless it is there; returns it."""
    if not (directory / "model.safetensors").is_file():
        BUILDERS[task](HERE / task / "base", directory)
    return directory
