"""Where an MCP server is, how long it may take, and how much it may say."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from configs import bounds
from configs.errors import ConfigError
from envs.addresses import is_address
from envs.conversation import KWARGS

SECTION = KWARGS + "server."
ALWAYS_PASSED = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER")
"""Environment variables that every server process gets."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """An MCP server: `environment.kwargs.server`. Either `command` or `url`."""

    command: str | None = None
    """Program that is a server over stdio; each environment starts its own."""
    args: tuple[str, ...] = ()
    """Its arguments."""
    env: tuple[str, ...] = ()
    """NAMES of environment variables that it gets beside `PATH`, `HOME` and their like; no other is passed on."""
    cwd: str | None = None
    """Folder it starts in; null: that of the run."""
    url: str | None = None
    """Address of a server over streamable HTTP, for example `http://127.0.0.1:8000/mcp`; proxies are not used."""
    token_env: str | None = None
    """Environment variable that holds the server's bearer token, on every node that runs environments."""
    tools: tuple[str, ...] | None = None
    """Names of the tools that the environment offers; null: all."""
    per_episode: bool = True
    """Whether every episode gets a new process (or HTTP session), so that none sees what another one left. False saves
    the start, for servers without state."""
    start_timeout_s: float = 30.0
    """Longest time until it has started and listed its tools."""
    call_timeout_s: float = 20.0
    """Longest time of one call; leave room for a turn's calls in `rollout.step_timeout_s`."""
    max_message_bytes: int = 4 << 20
    """Longest message that is read from it; one that sends more is cut off."""
    max_result_characters: int = 16_384
    """Longest result that the model reads; the rest is left out."""

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            both = {"command": self.command, "url": self.url}
            fix = "Write command: my-server, or url: http://127.0.0.1:8000/mcp."
            raise ConfigError(KWARGS + "server", "must have either a command or a url", both, fix)
        for name in ("start_timeout_s", "call_timeout_s"):
            bounds.within(SECTION, name, getattr(self, name), 0.1, 3600)
        bounds.within(SECTION, "max_message_bytes", self.max_message_bytes, 1024, 1 << 30)
        bounds.at_least(SECTION, "max_result_characters", self.max_result_characters, 1)
        for name in self.env:
            self._variable("env", name)
        if self.command is not None:
            self._check_command(self.command)
        if self.url is not None and not is_address(self.url, query=True):
            shown = self.url.rpartition("@")[2]  # what stands before it may be a password
            rule = "must be an http or https address without credentials"
            raise ConfigError(SECTION + "url", rule, shown, "Write http://127.0.0.1:8000/mcp, say.")
        if self.token_env is not None:
            self.token()

    def _check_command(self, command: str) -> None:
        if self.token_env is not None:
            rule, fix = "is for a server with a url", "Pass its variable on by env: [NAME]."
            raise ConfigError(SECTION + "token_env", rule, self.token_env, fix)
        if shutil.which(command) is None:
            rule, fix = "must be a program that can be found", "Install it, or write its whole path."
            raise ConfigError(SECTION + "command", rule, command, fix)
        if self.cwd is not None and not os.path.isdir(self.cwd):
            raise ConfigError(SECTION + "cwd", "must be a folder", self.cwd, "Make it, or leave it out.")

    def variables(self) -> dict[str, str]:
        """Return the environment of the server's process."""
        always = {name: os.environ[name] for name in ALWAYS_PASSED if name in os.environ}
        return always | {name: self._variable("env", name) for name in self.env}

    def token(self) -> str | None:
        """Return the bearer token; it stands in no message."""
        if self.token_env is None:
            return None
        token = self._variable("token_env", self.token_env).strip()
        if not token or not token.isascii() or not token.isprintable():
            rule, fix = "must name a variable that holds a token of printable ASCII", "Export it anew."
            raise ConfigError(SECTION + "token_env", rule, self.token_env, fix)
        return token

    def _variable(self, field: str, name: str) -> str:
        if name not in os.environ:
            rule = "must name environment variables that are set"
            raise ConfigError(SECTION + field, rule, name, f"Export {name} on every node.")
        return os.environ[name]

    @property
    def where(self) -> str:
        """The server in an error message."""
        return f"the MCP server {self.command or self.url}"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ServerConfig:
        """Make it from a config's mapping.

        Raises:
            ConfigError: no mapping, or an unknown or wrong setting.
        """
        if not isinstance(settings, Mapping):
            fix = "Write server: {command: my-server} or server: {url: http://127.0.0.1:8000/mcp}."
            raise ConfigError(KWARGS + "server", "must hold the settings of an MCP server", settings, fix)
        known = [field.name for field in fields(cls)]
        read: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                fix = f"Did you mean {near[0]!r}?" if near else f"It takes: {', '.join(known)}."
                raise ConfigError(SECTION + str(name), "is no setting of an MCP server", value, fix)
            read[name] = _typed(name, value)
        return cls(**read)


def _typed(name: str, value: Any) -> Any:
    """Return a setting's value in its type, lists as tuples."""
    if name in ("args", "env", "tools"):
        if name == "tools" and value is None:
            return None
        texts = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
        if not texts:
            raise ConfigError(SECTION + name, "must be a list of texts", value, f"Write {name}: [one, two].")
        return tuple(value)
    kinds: dict[str, Any] = {"per_episode": bool, "max_message_bytes": int, "max_result_characters": int}
    kind = int | float if name.endswith("_s") else kinds.get(name, str | None)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {bool: "true or false", int: "a whole number", int | float: "a number"}.get(kind, "text")
        raise ConfigError(SECTION + name, f"must be {words}", value, "Write it so, or leave it out.")
    return value
