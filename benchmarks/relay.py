"""An environment that costs nothing: three turns, a fixed answer to each."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs import ConversationEnv, Reply

LAST_TURN = 3


class RelayEnv(ConversationEnv):
    """Answers any text with the same short message, `LAST_TURN` turns long."""

    def sample_task(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a number, so that prompts differ."""
        return {"number": int(rng.integers(1_000_000))}

    def first_messages(self, task: dict[str, Any]) -> str:
        """Return the number."""
        return str(task["number"])

    def respond(self, text: str) -> Reply:
        """Go on until the third turn."""
        last = self.turns == LAST_TURN
        return Reply(() if last else "and then?", reward=float(len(text) % 2), terminated=last)
