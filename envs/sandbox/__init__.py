"""A closed place for code that a model wrote: `Sandbox(SandboxConfig()).run(code)`.

Three programs take part: `sandbox.py` on the host starts, reads and kills; `enter.py` (or bubblewrap) makes the closed
place and becomes its first process; `inside.py` is that process, which limits and starts the code.
"""

from __future__ import annotations

from envs.sandbox.sandbox import Result, Sandbox
from envs.sandbox.settings import SandboxConfig

__all__ = ["Result", "Sandbox", "SandboxConfig"]
