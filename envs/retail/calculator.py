"""Arithmetic that a model writes, worked out over Python's syntax tree: no name, call or other code is ever run."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

MAX_CHARACTERS = 1000
_ALLOWED = frozenset("0123456789+-*/(). ")
_MOST_BITS = 1024  # beyond the largest float, which the result must fit

Number = int | float


def calculate(expression: str) -> str:
    """Work an expression out.

    Args:
        expression: digits, `+ - * / // **`, parentheses and spaces, for example `"100 - 12.345"`.

    Returns:
        The value as a float rounded to two digits, for example `"87.66"`.

    Raises:
        ValueError: other characters, or too many of them.
        SyntaxError: the text is no expression; in Python's words.
        ArithmeticError: division by zero, or a number beyond the largest float.
    """
    if not set(expression) <= _ALLOWED:
        raise ValueError("invalid characters in expression")
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(f"the expression has {len(expression)} characters, at most {MAX_CHARACTERS} are allowed")
    return str(round(float(_value(ast.parse(expression.strip(), "<string>", "eval").body)), 2))


def _value(node: ast.expr) -> Number:
    """Return the value of a part of the expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("the expression must be made of numbers, + - * / and parentheses")


def _power(base: Number, exponent: Number) -> Number:
    """Return a power; one that would take long to write out is refused before it is worked out."""
    if abs(base) > 1 and exponent * math.log2(abs(base)) > _MOST_BITS:
        raise OverflowError("the power is too large")
    value = base**exponent
    if isinstance(value, complex):
        raise ValueError("the power of a negative number has no real value here")
    return value


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: _power,
}
