"""Whether a response's final answer is the reference's: exact match, or math-verify where it is installed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

_NUMBER = re.compile(r"-?[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]+)?", re.ASCII)
_BOXED = r"\boxed{"


def final_answer(text: str, marker: str | None = None) -> str | None:
    r"""The final answer in a text, None where there is none.

    With a marker it is what follows the last one, on its line. Without, the first of these that the text has: what
    follows the last `####`, what the last `\boxed{}` holds, what follows the last `#`, the last number.

    Args:
        text: a response, for example `"9 * 2 = 18 #### $1,018."`, which gives `"1018"`.
        marker: text that precedes the answer, such as `"#"`; then nothing else counts.
    """
    for known in (marker,) if marker else ("####", _BOXED, "#"):
        _, found, rest = text.rpartition(known)
        if found:
            inner = _until_closed(rest) if known == _BOXED else rest.strip().partition("\n")[0]
            return normalised(inner) or None
    numbers = _NUMBER.findall(text) if not marker else []
    return normalised(numbers[-1]) if numbers else None


def normalised(answer: str) -> str:
    """An answer without the space, full stop, dollar and percent signs around it; a number without separators."""
    plain = answer.strip().strip("$").rstrip(".%").replace("\\$", "").replace("\\%", "").replace("$", "").strip()
    return plain.replace(",", "") if _NUMBER.fullmatch(plain) else plain


def same(answer: str, reference: str) -> bool:
    """Whether two normalised answers are equal, as text or as decimal numbers (`"2.50"` and `"2.5"`)."""
    if answer == reference:
        return True
    numbers = [text for text in (answer, reference) if len(text) <= 40 and _NUMBER.fullmatch(text)]
    return len(numbers) == 2 and Decimal(answer) == Decimal(reference)


@dataclass(frozen=True)
class Grader:
    """A reward: 1 where the response's final answer is the reference's, else 0."""

    answers: Sequence[str]
    """[prompts] reference answers, normalised."""
    marker: str | None = None
    """Text that must precede the answer; null takes it as `final_answer` does."""
    _verify: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if find_spec("math_verify") is not None:
            from math_verify import parse, verify

            object.__setattr__(self, "_verify", lambda a, b: bool(verify(parse(f"${b}$"), parse(f"${a}$"))))

    @property
    def name(self) -> str:
        """How answers are compared, for a person."""
        where = f"what follows the last {self.marker!r}" if self.marker else "the final answer"
        return f"{'math-verify' if self._verify else 'exact match'} of {where}"

    def __call__(self, index: int, text: str) -> float:
        """The reward of a response.

        Args:
            index: of the prompt.
            text: the response.
        """
        answer = final_answer(text, self.marker)
        if answer is None:
            return 0.0
        reference = self.answers[index]
        return float(same(answer, reference) or (self._verify is not None and self._verify(answer, reference)))


def _until_closed(text: str) -> str:
    """What stands before the brace that closes the one already open; all of it where none does."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:place]
    return text
