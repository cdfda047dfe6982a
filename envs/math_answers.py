r"""Answers of mathematics: found after `\boxed` or `####`, and compared by value."""

from __future__ import annotations

import functools
import re
from fractions import Fraction

from envs.verifiers import answer_after

MOST_CHARACTERS = 300
"""A longer answer is wrong: no algebra system should read it."""

_BOX = r"\boxed{"
_FRACTION = re.compile(r"(-?)\\frac\{(-?\d{1,40})\}\{(-?\d{1,40})\}")
_PLAIN = re.compile(r"-?(?:\d{1,40}(?:\.\d{1,40})?|\.\d{1,40}|\d{1,40}/\d{1,40})")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}")
_SPACE = re.compile(r"(?<!\\)\\[,;! ]")  # not the second half of a matrix's new line
_HUGE = re.compile(r"\^[^+=,]*(?:\^|!|\d{4})|\*\*|\d{4,}\s*!|!\s*!|\)\s*!|\}\s*!")
"""Towers of powers, large exponents and factorials: evaluating them may never end."""


def final_answer(text: str) -> str | None:
    r"""Return the answer that a text gives: in its last `\boxed{...}`, else on the line after its last `####`.

    Args:
        text: the assistant's turn, or a worked solution.
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed
    answer = answer_after(text, "####")
    return answer.splitlines()[0].strip() if answer else None


def boxed_answer(text: str) -> str | None:
    r"""Return what stands in the last `\boxed{...}`, braces within it balanced; None where there is none or it is open.

    Args:
        text: for example `"so \boxed{\frac{1}{2}}."`, which gives `"\frac{1}{2}"`.
    """
    start = text.rfind(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place].strip()
    return None


def same_answer(given: str | None, expected: str) -> bool:
    """Whether two answers have the same value.

    Equal texts and equal numbers are the same; anything else is left to math-verify where it is installed (the extra
    `data`), and is different where it is not.

    Args:
        given: the model's answer in LaTeX or plain text; None is no answer.
        expected: the right one.
    """
    if not given or len(given) > MOST_CHARACTERS:
        return False
    left, right = simplified(given), simplified(expected)
    if left == right:
        return True
    numbers = as_number(left), as_number(right)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if _HUGE.search(left):
        return False
    return _verified(left, right)


def simplified(answer: str) -> str:
    """Return an answer without what is not compared: dollar signs, spaces, degrees, percent, marks of plain text."""
    answer = _WRAPPED.sub(r"\1", answer.strip().rstrip(".").strip("$"))
    answer = _SPACE.sub("", answer)
    for old, new in (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\left", ""), ("\\right", "")):
        answer = answer.replace(old, new)
    for nothing in ("\\$", "\\%", "%", "^{\\circ}", "^\\circ", "$"):
        answer = answer.replace(nothing, "")
    answer = "".join(answer.split())
    return answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer  # (1,234) is a pair


def as_number(answer: str) -> Fraction | None:
    """Return a simplified answer that is a whole number, a decimal or a fraction as its exact value, others as None."""
    found = _FRACTION.fullmatch(answer)
    try:
        if found:
            return Fraction(int(found[2]), int(found[3])) * (-1 if found[1] else 1)
        return Fraction(answer) if _PLAIN.fullmatch(answer) else None
    except ZeroDivisionError:
        return None


@functools.lru_cache(maxsize=4096)
def _verified(given: str, expected: str) -> bool:
    """Whether math-verify finds two answers equal; it never raises, and False where it is not installed."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return False
    # Its limits on time use signals, which only a main thread has; environments step in threads of their own.
    try:
        left, right = (parse(f"\\boxed{{{answer}}}", parsing_timeout=None) for answer in (given, expected))
        return bool(verify(right, left, timeout_seconds=None))
    except Exception:  # a model's text may break any parser
        return False
