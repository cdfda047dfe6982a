"""The one error a broken configuration raises: it names field, rule, value and fix."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot run.

    Args:
        field: dotted name of the field, as a user writes it (`learner.lr`).
        rule: what must hold (`must be > 0`).
        value: what was given; shown with `repr`, long values are cut.
        fix: one sentence that says what to do.
    """

    def __init__(self, field: str, rule: str, value: object, fix: str) -> None:
        super().__init__(field, rule, value, fix)  # the arguments, so that the error pickles
        self.field = field
        self.rule = rule
        self.value = value
        self.fix = fix

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 200:
            shown = shown[:197] + "..."
        return f"{self.field} {self.rule}, got {shown}. {self.fix}"
