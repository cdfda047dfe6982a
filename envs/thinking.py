"""The thinking that models such as Qwen3 write before a turn, between tags."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def without_thinking(text: str) -> str:
    """Return what a turn says to others: what follows its thinking.

    Args:
        text: an assistant's turn. Thinking that it opens with `<think>` ends with the first `</think>`. The opening tag
            may be missing, as some chat templates put it into the generation prompt; then `</think>` must have a line
            of its own, so that a text which merely names the tag stays whole.

    Returns:
        The text after the thinking without the line breaks between them, "" where the thinking was opened and never
        closed, and a text without thinking as it is.
    """
    if text.lstrip().startswith(OPEN):
        return text.partition(CLOSE)[2].lstrip("\n")
    _, closed, said = f"\n{text}\n".partition(f"\n{CLOSE}\n")
    return said.removesuffix("\n").lstrip("\n") if closed else text
