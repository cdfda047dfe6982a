"""Verifiers: pure functions that read the answer from an assistant's text."""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)


def answer_after(text: str, marker: str = "#") -> str | None:
    """Return what follows the last `marker`, without the space around it; None where there is no marker.

    Args:
        text: the assistant's turn, for example `"12+7=19;19-5=14#14"`, which gives `"14"`.
        marker: text that precedes the answer.
    """
    _, found, answer = text.rpartition(marker)
    return answer.strip() if found else None


def integer_after(text: str, marker: str = "#") -> int | None:
    """Return the integer after the last `marker`; None where there is no marker or anything but a plain integer.

    Args:
        text: the assistant's turn.
        marker: text that precedes the answer.
    """
    answer = answer_after(text, marker)
    if answer is None:
        return None
    digits = answer.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        return None
    return int(answer)


def number_after(text: str, marker: str = "####") -> Decimal | None:
    """Return the number after the last `marker`, on its line; None where there is none.

    Thousands separators, a currency sign, a unit of percent and a full stop at the end are left out.

    Args:
        text: the assistant's turn, for example `"9 * 2 = 18 #### $1,018."`, which gives 1018.
        marker: text that precedes the answer.
    """
    answer = answer_after(text, marker)
    if not answer:
        return None
    number = answer.splitlines()[0].strip().rstrip(".%").replace(",", "").replace("$", "").strip()
    if len(number) > 40 or not _NUMBER.fullmatch(number):
        return None
    return Decimal(number)


def text_between(text: str, opening: str, closing: str) -> str | None:
    """Return what stands between the last `closing` and the `opening` before it, without the space around it.

    Args:
        text: the assistant's turn, for example `"So <answer>4</answer>"`, which gives `"4"`.
        opening: text that precedes the answer.
        closing: text that follows it.

    Returns:
        The answer; None where one of the two is missing.
    """
    before, closed, _ = text.rpartition(closing)
    _, opened, answer = before.rpartition(opening)
    return answer.strip() if closed and opened else None
