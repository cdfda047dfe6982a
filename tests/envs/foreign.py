"""A `gymnasium.Env` that owes nothing to this project: no tasks, no expert, numbers of numpy's."""

from __future__ import annotations

import random
import time
from pathlib import Path

import gymnasium
import numpy as np

from envs.spaces import ChatText, Messages


class ForeignEnv(gymnasium.Env):
    action_space = ChatText()
    observation_space = Messages()

    def __init__(self, holds: int = 0, close_s: float = 0.0, closed: str = ""):
        self.held = np.ones(holds, np.uint8)
        self.close_s = close_s
        self.closed = closed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return [{"role": "user", "content": str(random.random())}], {"task": {"drawn": self.np_random.integers(10**9)}}

    def step(self, action):
        metrics = {"array": np.array([1.0, 2.0])} if action == "a" else {"thing": object()}
        info = {"metrics": metrics, "other": object()}
        return [{"role": "user", "content": "on"}], np.float32(0.25), np.bool_(True), np.bool_(False), info

    def close(self):
        time.sleep(self.close_s)
        if self.closed:
            Path(self.closed).write_text("closed")
