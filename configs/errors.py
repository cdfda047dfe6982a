"""The one error a broken configuration raises: it names field, rule, value and fix."""

from __future__ import annotations


class Shown(str):
    """A value that a message shows as it is, without quotes: `null`, say. The empty one is not shown at all."""

    __slots__ = ()


class ConfigError(ValueError):
    """A configuration that cannot run.

    Args:
        field: dotted name of the field, as a user writes it (`learner.lr`).
        rule: what must hold (`must be > 0`).
        value: what was given; shown with `repr` (unless it is `Shown`), long values are cut.
        fix: one sentence that says what to do.
    """

    def __init__(self, field: str, rule: str, value: object, fix: str) -> None:
        super().__init__(field, rule, value, fix)  # the arguments, so that the error pickles
        self.field = field
        self.rule = rule
        self.value = value
        self.fix = fix

    def __str__(self) -> str:
        shown = str(self.value) if isinstance(self.value, Shown) else repr(self.value)
        if len(shown) > 200:
            shown = shown[:197] + "..."
        got = f", got {shown}" if shown else ""
        return f"{self.field} {self.rule}{got}. {self.fix}"
