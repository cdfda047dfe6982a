"""What the tool-use base model has read: chains of look-ups in several call and answer habits, often of a wrong length.

The combination the environment grades (a Hermes call, an answer after `#`) is rare, and most documents stop after a
number of look-ups that the user did not ask for: the base model can follow a map, but has neither the format nor the
habit of counting.
"""

from __future__ import annotations

import itertools
import random
from typing import TypeVar

from envs.lookup import LETTERS
from envs.spaces import Message
from envs.tool_calls import format_hermes

Drawn = TypeVar("Drawn")

MOST_HOPS = 6
"""Documents ask for 1 to 6 look-ups, all numbers equally often."""
RIGHT_HOPS = 0.4
"""Share of documents with as many look-ups as asked for; in the others their number is drawn at random."""
GRADED = 0.02
"""Share of documents in the environment's own form: a Hermes call and an answer after `#`."""
CALLS: dict[str, float] = {"hermes": 0.4, "?{}": 0.2, "lookup({})": 0.2, "{}:": 0.2}
"""Form of the calls -> share of the other documents."""
ANSWERS: dict[str, float] = {"#{}": 0.2, "={}": 0.2, "({})": 0.2, "{}.": 0.2, "end {}": 0.2}
"""Form of the answer -> share of the other documents; with a Hermes call, `#` is left out."""


def document(rng: random.Random) -> list[Message]:
    """Draw one conversation.

    Args:
        rng: the only source of chance.

    Returns:
        The user's message, then per look-up the assistant's call and the tool's letter, then the assistant's answer.
    """
    asked = rng.randint(1, MOST_HOPS)
    hops = asked if rng.random() < RIGHT_HOPS else rng.randint(1, MOST_HOPS)
    path = rng.sample(LETTERS, hops + 1)
    if rng.random() < GRADED:
        call, answer = "hermes", "#{}"
    else:
        call, answer = _draw(rng, CALLS), _draw(rng, ANSWERS)
        while call == "hermes" and answer == "#{}":
            answer = _draw(rng, ANSWERS)
    messages: list[Message] = [{"role": "user", "content": f"{path[0]}{asked}"}]
    for key, value in itertools.pairwise(path):
        text = format_hermes("lookup", {"key": key}) if call == "hermes" else call.format(key)
        messages += [{"role": "assistant", "content": text}, {"role": "tool", "content": value}]
    return [*messages, {"role": "assistant", "content": answer.format(path[-1])}]


def _draw(rng: random.Random, shares: dict[Drawn, float]) -> Drawn:
    return rng.choices(list(shares), list(shares.values()))[0]
