"""What an environment raised, and where: the last line of its author's own code."""

from __future__ import annotations

import inspect
import os
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path

from gymnasium.error import ResetNeeded

from configs.errors import ConfigError

_HOME = Path(__file__).resolve().parent.parent
_OURS = tuple(f"{_HOME / name}{os.sep}" for name in ("configs", "envs", "policies", "rejuvenation", "orchestrator"))
_LIBRARIES = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib", "stdlib", "platstdlib"))
_ENVIRONMENTS = f"{_HOME / 'envs'}{os.sep}"
_CHECKS = tuple(_ENVIRONMENTS + name for name in ("checker.py", "checkup.py", "registry.py"))


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception that came out of an environment."""

    error: str
    """Type and message on one line, without a full stop: `KeyError: 'price'`."""
    place: str
    """`my_env.py:11`, as seen from the working directory; empty where nothing is known."""
    function: str
    """The function of that line; empty where the place is that of the class."""
    cause: tuple[str, str, int]
    """Type, file and line: equal for one and the same mistake, whatever the message says."""
    by_environment: bool
    """Whether the environment's code raised it, not who calls it."""

    def __str__(self) -> str:
        place = f", at {self.place}" if self.place else ""
        return f"{self.error}{place}{f' in {self.function}' if self.function else ''}"

    @classmethod
    def of(cls, error: BaseException, environment: type | None = None) -> Raised:
        """Describe an exception.

        Args:
            error: as it was caught.
            environment: the environment's class, where it is known: it tells the author's file where that is
                installed, and is the place where the author's code has no part in the exception.
        """
        inner = error.__context__
        if inner is not None and str(error).startswith(f"{inner} was raised from the environment creator"):
            error = inner  # gymnasium.make raises another TypeError, whose traceback ends there
        home = _definition(environment)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
        theirs = [frame for frame in frames if not _absolute(frame.filename).startswith((*_OURS, *_LIBRARIES))]
        theirs = theirs or [frame for frame in frames if home and _absolute(frame.filename) == home[0]]
        ours = [frame for frame in frames if _absolute(frame.filename).startswith(_ENVIRONMENTS)]
        ours = [frame for frame in ours if not _absolute(frame.filename).startswith(_CHECKS)]
        known = theirs or ours or frames
        last = known[-1] if known else None
        kind = type(error).__name__
        place, function, cause = "", "", (kind, "", 0)
        if last is not None:
            place, function = _place(last.filename, last.lineno), last.name
            cause = (kind, last.filename, last.lineno or 0)
        if home and not theirs:
            place, function = _place(*home), ""
        told = " ".join(f"{kind}: {error}".split()).rstrip(".:")
        by_caller = isinstance(error, ConfigError | ResetNeeded)  # what it was given, or when it was called
        return cls(told, place, function, cause, bool(theirs or ours) and not by_caller)


def _definition(environment: type | None) -> tuple[str, int] | None:
    """Return file and line of an author's class; None for one of this framework, or one that no file defines."""
    if environment is None:
        return None
    try:
        file, line = _absolute(inspect.getfile(environment)), inspect.getsourcelines(environment)[1]
    except (OSError, TypeError):
        return None
    return None if file.startswith(_OURS) else (file, line)


def _absolute(filename: str) -> str:
    return os.path.abspath(filename)


def _place(filename: str, line: int | None) -> str:
    """Return `file:line`, the file relative to the working directory where it lies in it."""
    path = Path(_absolute(filename))
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"
