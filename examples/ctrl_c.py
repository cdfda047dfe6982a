"""Ctrl-C at a program of examples, once its imports are done: one sentence instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from orchestrator.cli import INTERRUPTED


def until_ctrl_c(main: Callable[[], None], then: str) -> None:
    """Call `main`; on Ctrl-C say so and what the user can do then, and exit as an interrupted program does."""
    try:
        main()
    except KeyboardInterrupt:
        print(f"interrupted; everything that was started has been ended. {then}", file=sys.stderr)
        sys.exit(INTERRUPTED)
