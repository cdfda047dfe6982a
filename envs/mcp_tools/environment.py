"""The base of environments whose tools are those of an MCP server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.errors import ConfigError
from envs.conversation import KWARGS
from envs.mcp_tools.settings import SECTION, ServerConfig
from envs.spaces import Message
from envs.text_arguments import typed
from envs.tool_calls import ToolCall
from envs.tool_env import ToolEnv


class McpToolEnv(ToolEnv):
    """A `ToolEnv` that offers a server's tools beside those of its own that are marked with `@tool`.

    Arguments are checked against the server's JSON schemas before they are sent. An error that a tool returns, a call
    that is refused and one that takes too long go back to the model as `Error: ...`. A server that ends costs its own
    episode, which ends as `environment_error`; the next one starts it anew.

    Args:
        server: settings of `envs.mcp_tools.settings.ServerConfig`.
        **kwargs: those of `ToolEnv`.

    Raises:
        ConfigError: wrong settings, the package `mcp` is not installed, or a tool that the server does not have.
        RuntimeError: the server does not start, or offers what is no tool.
    """

    def __init__(self, *, server: Mapping[str, Any], **kwargs: Any) -> None:
        self._config = ServerConfig.of(server)
        try:
            from envs.mcp_tools.connection import Connection
        except ImportError as error:
            fix = "Install the extra `mcp` (pip install -e '.[mcp]' in the checkout)."
            raise ConfigError(KWARGS + "server", f"needs the package mcp ({error})", dict(server), fix) from error
        self._connection = Connection(self._config)
        self._remote: dict[str, dict[str, Any]] = {}
        super().__init__(**kwargs)

    def offered_tools(self) -> dict[str, dict[str, Any]]:
        """Return name -> schema of the tools of the class and of the server."""
        from envs.mcp_tools.schemas import offered

        own = super().offered_tools()
        try:
            remote = offered(self._connection.list_tools())
        except ValueError as error:
            self._connection.close()
            raise RuntimeError(f"{self._config.where} cannot be used: {error}.") from error
        wanted = list(remote) if self._config.tools is None else list(self._config.tools)
        problem = None
        if missing := [name for name in wanted if name not in remote]:
            problem = ("must name tools of the server", missing, f"It has: {', '.join(remote)}.")
        elif both := [name for name in wanted if name in own]:
            problem = ("must leave out tools that the class has", both, "List the others.")
        if problem is not None:
            self._connection.close()
            raise ConfigError(SECTION + "tools", *problem)
        self._remote = {name: remote[name] for name in wanted}
        return own | self._remote

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Start an episode, with `per_episode` on a server that no other one has used."""
        if self._config.per_episode and self._connection.calls:
            self._connection.close()
        self._connection.open()
        return super().reset(seed=seed, options=options)

    def call_tool(self, call: ToolCall) -> tuple[str, bool]:
        """Check and execute one call, of the server's tools or of those of the class."""
        from envs.mcp_tools.connection import CallFailed
        from envs.mcp_tools.results import as_text
        from envs.mcp_tools.schemas import mismatch, plain

        schema = self._remote.get(call.name)
        if schema is None:
            return super().call_tool(call)
        try:
            arguments = typed(plain(schema), call.arguments) if call.as_text else call.arguments
            error = mismatch(schema, arguments)
        except Exception as raised:  # a schema whose references lead nowhere, or arguments nested too deep
            error = f"the arguments cannot be checked ({type(raised).__name__})"
        if error is not None:
            return error, True
        try:
            result = self._connection.call(call.name, arguments)
        except CallFailed as failed:
            return str(failed)[: self._config.max_result_characters], True
        return as_text(result, self._config.max_result_characters), result.is_error

    def close(self) -> None:
        """End the connection and the server's process."""
        self._connection.close()
        super().close()
