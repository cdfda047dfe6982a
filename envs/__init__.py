"""Gymnasium environments: conversations, tools and verified tasks.

Importing this package registers its ids with gymnasium; the environments' own modules are imported when one is made.
"""

from __future__ import annotations

from envs.checker import check_environment
from envs.checkup import checkup
from envs.conversation import ConversationEnv, Reply
from envs.registry import make, register_all
from envs.tool_env import ToolEnv
from envs.tools import tool

__all__ = ["ConversationEnv", "Reply", "ToolEnv", "check_environment", "checkup", "make", "tool"]

register_all()
