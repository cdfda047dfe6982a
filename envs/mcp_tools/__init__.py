"""Tools of an MCP server (Model Context Protocol) as the tools of an environment, with the package `mcp`."""

from __future__ import annotations

from envs.mcp_tools.environment import McpToolEnv

__all__ = ["McpToolEnv"]
