"""Environments in processes of their own: what they raise, leak, fork or crash stays there, and can be killed.

`ForkServer` forks a supervisor for each environment, and the supervisor the process in which the environment runs
(`serving`). `ProcessEnv` is the environment as the rest of the program sees it. Messages are JSON, never pickles.
"""

from __future__ import annotations

from envs.processes.environment import ProcessEnv, open_environment
from envs.processes.fork_server import ForkServer
from envs.processes.process import EnvironmentFailure, EnvironmentProcess, Process

__all__ = ["EnvironmentFailure", "EnvironmentProcess", "ForkServer", "Process", "ProcessEnv", "open_environment"]
