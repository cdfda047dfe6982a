"""The limits of a sandbox, and whether code may run where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from configs import bounds
from configs.errors import ConfigError
from envs.conversation import KWARGS

SECTION = KWARGS + "sandbox."
BACKENDS = ("bubblewrap", "namespaces")
"""Ways to close a sandbox, in the order in which they are tried."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """What code in a sandbox may use: `environment.kwargs.sandbox`."""

    time_limit_s: float = 10.0
    """Longest wall-clock time of one run; then every process of the run is killed. Keep it below
    `rollout.step_timeout_s`, times the calls of a turn."""
    cpu_s: int = 10
    """Processor time of one process of the run, in whole seconds."""
    memory_bytes: int = 512 * _MIB
    """Address space of one process, and resident memory of all processes together (looked at 20 times a second)."""
    max_processes: int = 16
    """Processes and threads of a run at one time, the first one included."""
    max_output_bytes: int = 64 * 1024
    """Most bytes of stdout, and as many of stderr; a run that writes more is stopped there."""
    scratch_bytes: int = 64 * _MIB
    """Size of the sandbox's only writable folder, /tmp, which lives in memory and is gone after the run."""
    backend: str | None = None
    """`bubblewrap` or `namespaces`; null takes the first of them that proves closed on this machine."""
    run_without_isolation: bool = False
    """Where no sandbox can be had, run the code all the same: WITHOUT ISOLATION, as the training's own user, with its
    network, files and processes in reach. For machines that are themselves thrown away. Where a sandbox
    can be had it is taken, whatever stands here."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = _KINDS.get(field.name)
            if kind and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
                raise ConfigError(
                    SECTION + field.name, f"must be {_WORDS[kind]}", value, "Write it so, or leave it out."
                )
        bounds.within(SECTION, "time_limit_s", self.time_limit_s, 0.1, 3600)
        bounds.within(SECTION, "cpu_s", self.cpu_s, 1, 3600)
        bounds.at_least(SECTION, "memory_bytes", self.memory_bytes, 64 * _MIB)  # Python itself takes some 20 MiB
        bounds.within(SECTION, "max_processes", self.max_processes, 1, 4096)
        bounds.at_least(SECTION, "max_output_bytes", self.max_output_bytes, 1)
        bounds.at_least(SECTION, "scratch_bytes", self.scratch_bytes, _MIB)
        if self.backend is not None:
            bounds.one_of(SECTION, "backend", self.backend, BACKENDS)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> SandboxConfig:
        """Return the settings of a mapping, as a YAML file gives them.

        Raises:
            ConfigError: no mapping, a name that is no setting, or a value out of its bounds.
        """
        if not isinstance(settings, Mapping):
            rule, fix = "must hold the settings of a sandbox", "Write sandbox: {time_limit_s: 5}, or leave it out."
            raise ConfigError(SECTION[:-1], rule, settings, fix)
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                fix = f"It takes: {', '.join(known)}."
                raise ConfigError(f"{SECTION}{name}", "is no setting of the sandbox", settings[name], fix)
        return cls(**settings)


_KINDS: dict[str, Any] = {
    "time_limit_s": int | float,
    "run_without_isolation": bool,
} | dict.fromkeys(("cpu_s", "memory_bytes", "max_processes", "max_output_bytes", "scratch_bytes"), int)
_WORDS: dict[Any, str] = {int: "a whole number", int | float: "a number", bool: "true or false"}
