"""The tasks of the package reasoning-gym, by name; the package runs in a process of its own."""

from __future__ import annotations

from envs.reasoning_gym.environment import ReasoningGymEnv

__all__ = ["ReasoningGymEnv"]
