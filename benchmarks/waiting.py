"""An environment whose tools wait: every turn but the last calls one, which takes so long and then answers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from configs import bounds
from envs import ConversationEnv, Reply

CALLS = 4
"""Tool calls of an episode that no limit cuts short."""


class WaitingEnv(ConversationEnv):
    """Takes any text for a call, as a model with random weights writes none.

    Args:
        wait_s: how long each call waits, as for a service elsewhere.
        **kwargs: those of `ConversationEnv`.
    """

    def __init__(self, *, wait_s: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        bounds.at_least("environment.kwargs.", "wait_s", wait_s, 0.0)
        self.wait_s = wait_s

    def sample_task(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a number, so that prompts differ."""
        return {"number": int(rng.integers(1_000_000))}

    def first_messages(self, task: dict[str, Any]) -> str:
        """Return the number."""
        return str(task["number"])

    def respond(self, text: str) -> Reply:
        """Wait and answer, or end after the last call's answer has been read."""
        if self.turns > CALLS:
            return Reply(reward=float(len(text) % 2), terminated=True, metrics={"waits": 0.0})
        begun = time.perf_counter()
        if self.wait_s:
            time.sleep(self.wait_s)
        return Reply("and then?", metrics={"waits": 1.0, "waited_s": time.perf_counter() - begun})
