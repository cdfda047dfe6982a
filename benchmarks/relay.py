"""An environment that costs nothing: three turns, and an answer to each that depends on what was said."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np

from envs import ConversationEnv, Reply

LAST_TURN = 3


class RelayEnv(ConversationEnv):
    """Answers a text with its checksum, `LAST_TURN` turns long: siblings that differ get different answers."""

    def sample_task(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a number, so that prompts differ."""
        return {"number": int(rng.integers(1_000_000))}

    def first_messages(self, task: dict[str, Any]) -> str:
        """Return the number."""
        return str(task["number"])

    def respond(self, text: str) -> Reply:
        """Go on until the third turn."""
        last = self.turns == LAST_TURN
        return Reply(() if last else f"{crc32(text.encode()):010d}", reward=float(len(text) % 2), terminated=last)
