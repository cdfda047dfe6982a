"""The tokens of an excerpt as a page shows them: text that can be seen, shaded by entropy before and after."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from rejuvenation.excerpts import Excerpt
from rejuvenation.verdict import nats

EDGES = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Where the shade changes, in nats: `colours.STEPS` shades."""
SIGNS = {"\n": "⏎", "\t": "⇥", "": "·"}
"""How a token shows what cannot be seen; "" is a token whose bytes belong to the next one's character."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an excerpt, before above after."""

    text: str
    before: int | None
    """Shade; None in the prompt, which the model does not predict."""
    after: int | None
    target: bool
    ends_line: bool
    title: str


def tokens(excerpt: Excerpt) -> list[Token]:
    """An excerpt's tokens as they are shown."""
    found = []
    targets = set(excerpt.targets)
    for index, text in enumerate(excerpt.texts):
        values = {name: per_token[index] for name, per_token in excerpt.entropies.items()}
        steps = {name: None if value is None else bisect_right(EDGES, value) for name, value in values.items()}
        shown = {name: nats(value) for name, value in values.items() if value is not None}
        title = "prompt"
        if shown:
            title = f"before {shown['sft']}, after {shown['rejuvenated']}, base {shown['base']} nats"
        if index in targets:
            title += "; target token"
        found.append(
            Token(visible(text), steps["sft"], steps["rejuvenated"], index in targets, text.endswith("\n"), title)
        )
    return found


def visible(text: str) -> str:
    """A token's text with signs for line ends, tabs and control characters."""
    if text in SIGNS:
        return SIGNS[text]
    return "".join(SIGNS.get(char) or (chr(0x2400 + ord(char)) if ord(char) < 0x20 else char) for char in text)
