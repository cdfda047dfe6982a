"""Which texts may be read by a parser of formulas that evaluates Python, as sympy's does."""

from __future__ import annotations

import re

MOST_CHARACTERS = 1000
_CIRCULAR = ("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan")
_HYPERBOLIC = ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh")
NAMES = frozenset({*_CIRCULAR, *_HYPERBOLIC, "exp", "log", "ln", "sqrt", "abs", "Abs", "pi"})
"""Names of more than one letter that a formula may hold."""

_CHARACTERS = re.compile(r"[A-Za-z0-9+\-*/^()., \t\r\n]*")
_ATTRIBUTE = re.compile(r"\.\s*[A-Za-z]")
_NAME = re.compile(r"[A-Za-z]+[A-Za-z0-9]*")


def is_formula(text: str) -> bool:
    """Whether a text is plain algebra: numbers, one-letter names, known functions, `+ - * / ^ ( ) . ,` and spaces.

    There is no attribute, string, keyword or call of anything else in it, so that evaluating it as Python can take long
    but reaches nothing.
    """
    if len(text) > MOST_CHARACTERS or not _CHARACTERS.fullmatch(text) or _ATTRIBUTE.search(text):
        return False
    return all(len(name) == 1 or name in NAMES for name in _NAME.findall(text))
