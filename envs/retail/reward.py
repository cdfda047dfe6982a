"""The reward: the database as the reference actions leave it, and every required output said to the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from envs.retail.database import Database, Record
from envs.retail.tools import Action, Desk


@dataclass(frozen=True, slots=True)
class Grade:
    """The two halves of the reward; an episode is solved where both hold."""

    database_equal: bool
    """Whether the final database equals that after the reference actions on a fresh one."""
    outputs_said: bool
    """Whether the user was told every required output."""

    @property
    def solved(self) -> bool:
        """Whether both halves hold."""
        return self.database_equal and self.outputs_said


def grade(
    database: Database, said: Sequence[str], template: bytes, actions: Iterable[Action], outputs: Iterable[str]
) -> Grade:
    """Grade an episode.

    Args:
        database: the database as the episode left it.
        said: what the assistant said to the user; its tool calls are no part of that.
        template: the database as the episode found it.
        actions: the task's reference actions; one that fails changes nothing.
        outputs: the task's required outputs.
    """
    return Grade(database.changes() == changes_after(template, actions), not missing_outputs(outputs, said))


def changes_after(template: bytes, actions: Iterable[Action]) -> dict[str, dict[str, Record]]:
    """Return what the reference actions change on a fresh database; see `Database.changes`."""
    database = Database(template)
    Desk(database).call_all(actions)
    changes = database.changes()
    database.close()
    return changes


def missing_outputs(outputs: Iterable[str], said: Sequence[str]) -> list[str]:
    """Return the required outputs that no message to the user holds.

    Small and capital letters are alike, and commas do not count: `1,093.34` says the output `1093.34`. An output must
    stand within one message, at any place: `10` is also said by `$105`, as in tau-bench.
    """
    messages = [_plain(text) for text in said]
    return [output for output in outputs if not any(_plain(output) in message for message in messages)]


def _plain(text: str) -> str:
    """Return the text as outputs are compared."""
    return text.lower().replace(",", "")
