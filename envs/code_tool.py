"""The tool `python`: code that the model writes, run in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.sandbox import Result, Sandbox, SandboxConfig
from envs.tool_env import ToolEnv
from envs.tools import tool


class CodeToolEnv(ToolEnv):
    """A `ToolEnv` with the tool `python(code)`; every call is a program of its own and leaves nothing behind.

    Args:
        sandbox: the limits, settings of `envs.sandbox.SandboxConfig`; None: the defaults.
        **kwargs: those of `ToolEnv`.

    Raises:
        ConfigError: no sandbox can be had on this machine, and the settings do not allow to run without isolation.
    """

    def __init__(self, *, sandbox: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sandbox = Sandbox(SandboxConfig.of(sandbox or {}))

    @tool
    def python(self, code: str) -> str:
        """Run a Python program and return what it prints. It has the standard library and a folder, no network.

        Args:
            code: the whole program; print what you want to see.
        """
        return in_words(self.sandbox.run(code), self.sandbox.config)


def in_words(result: Result, config: SandboxConfig) -> str:
    """Return a run as the model reads it: what it printed, its errors, and at which limit it was stopped."""
    parts = [result.stdout.rstrip("\n")] if result.stdout.strip() else []
    if result.stderr.strip():
        parts.append("Errors:\n" + result.stderr.rstrip("\n"))
    if result.status == "time":
        parts.append(f"The program was stopped after {config.time_limit_s:g} seconds.")
    elif result.status == "memory":
        parts.append(f"The program was stopped: it used more than {config.memory_bytes >> 20} MiB of memory.")
    elif result.status == "output":
        parts.append(f"The program was stopped: it printed more than {config.max_output_bytes} bytes.")
    elif result.timed_out:
        parts.append(f"The program was stopped after {config.cpu_s} seconds of processor time.")
    elif result.exit_code and not result.stderr.strip():
        parts.append(f"The program ended with exit code {result.exit_code}.")
    return "\n".join(parts) or "The program printed nothing."
