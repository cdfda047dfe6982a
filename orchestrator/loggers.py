"""Loggers: a failure to set one up stops the run, a failure to log only warns (once)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from configs.run import LoggingConfig
from orchestrator.run_directory import SUPERSEDED

log = logging.getLogger("rejuvenate")


class Logger(Protocol):
    """Takes the figures of a training step."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Record `figures` of training step `step`."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class JsonlLogger:
    """metrics.jsonl: one line per training step, `step` first."""

    def __init__(self, run_dir: Path) -> None:
        self._file = open(run_dir / "metrics.jsonl", "a")  # noqa: SIM115  (open as long as the run)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a line and flush it."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardLogger:
    """TensorBoard event files; what an interrupted run logged after the checkpoint it resumes from is not shown."""

    def __init__(self, run_dir: Path, last_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=last_step + 1 if last_step else None)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one scalar per figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Loggers:
    """All loggers of a run that goes on after training step `last_step`."""

    def __init__(self, config: LoggingConfig, run_dir: Path, last_step: int = 0) -> None:
        self._loggers: list[Logger] = [JsonlLogger(run_dir)]
        if config.tensorboard:
            self._loggers.append(TensorBoardLogger(run_dir, last_step))
        self._warned: set[str] = set()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log to all; one that fails is warned about once and tried again at the next step."""
        for logger in self._loggers:
            name = type(logger).__name__
            try:
                logger.log(step, figures)
            except Exception as error:
                if name not in self._warned:
                    self._warned.add(name)
                    log.warning("%s cannot log: %s. The run goes on.", name, error)

    def close(self) -> None:
        """Close all."""
        for logger in self._loggers:
            logger.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a crash cut short is passed over."""
    file = run_dir / "metrics.jsonl"
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def set_aside_after(run_dir: Path, step: int) -> None:
    """Before a resume: lines after the checkpoint move to superseded/metrics.jsonl, as they will be made again.

    A last line that a crash cut short is dropped, so that the next line does not run into it.
    """
    rows = read_metrics(run_dir)
    late = [row for row in rows if row["step"] > step]
    if late:
        (run_dir / SUPERSEDED).mkdir(exist_ok=True)
        with open(run_dir / SUPERSEDED / "metrics.jsonl", "a") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in late)
    staging = run_dir / ".metrics.jsonl.partial"
    staging.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))
    os.replace(staging, run_dir / "metrics.jsonl")
