"""`rejuvenate export RUN`: the newest policy of a run as an ordinary Hugging Face directory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from configs.errors import ConfigError
from orchestrator import checkpoints


def export(run_dir: Path, output: Path) -> Path:
    """Copy the final policy of a run, or that of its newest checkpoint, to `output`.

    Raises:
        ConfigError: no run, no policy in it yet, or `output` exists.
    """
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError("RUN", "must be a run directory", str(run_dir), "It holds config.yaml and checkpoints/.")
    if output.exists():
        fix = "Remove it, or choose another name with --output."
        raise ConfigError("--output", "must not exist yet: nothing is overwritten", str(output), fix)
    source = run_dir / "final"
    if not source.is_dir():
        newest = checkpoints.latest(run_dir)
        if newest is None:
            raise ConfigError(
                "RUN", "must hold a policy: final/ or a checkpoint", str(run_dir), "Wait for its first checkpoint."
            )
        checkpoints.verify(newest)
        source = newest / "policy"
    staging = output.with_name(f".{output.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(source, staging)
    os.replace(staging, output)
    return source
