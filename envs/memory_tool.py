"""The tools of a notebook that lasts for one episode: save, search, list and delete notes."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from configs import bounds
from envs.conversation import KWARGS
from envs.search_index import match_of
from envs.spaces import Message
from envs.tool_env import ToolEnv
from envs.tools import tool


class MemoryToolEnv(ToolEnv):
    """A `ToolEnv` with the tools `save_note`, `search_notes`, `list_notes` and `delete_note`.

    The notes are in memory and gone with the episode. Mix it in beside others: `class MyEnv(SearchToolEnv,
    MemoryToolEnv)`.

    Args:
        max_notes: most notes at a time.
        max_note_characters: longest note.
        **kwargs: those of `ToolEnv`.
    """

    def __init__(self, *, max_notes: int = 50, max_note_characters: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        bounds.within(KWARGS, "max_notes", max_notes, 1, 10_000)
        bounds.within(KWARGS, "max_note_characters", max_note_characters, 1, 100_000)
        self.max_notes = max_notes
        self.max_note_characters = max_note_characters
        self.notes: dict[int, str] = {}
        self._last_note = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Start an episode, without notes."""
        self.notes, self._last_note = {}, 0
        return super().reset(seed=seed, options=options)

    @tool
    def save_note(self, text: str) -> str:
        """Keep a note for later and return its number.

        Args:
            text: what to keep.
        """
        if not text.strip():
            raise ValueError("a note must not be empty")
        if len(text) > self.max_note_characters:
            raise ValueError(f"a note has at most {self.max_note_characters} characters, this one has {len(text)}")
        if len(self.notes) >= self.max_notes:
            raise ValueError(f"there are {self.max_notes} notes already: delete one first")
        self._last_note += 1
        self.notes[self._last_note] = text.encode("utf-8", "replace").decode()  # no half of a surrogate pair
        return f"Saved as note {self._last_note}."

    @tool
    def search_notes(self, query: str) -> str:
        """Return the notes that have any of the words, best first.

        Args:
            query: words to search for.
        """
        return self._shown(_search(self.notes, query), "No note has any of these words.")

    @tool
    def list_notes(self) -> str:
        """Return all notes, oldest first."""
        return self._shown(list(self.notes), "There are no notes.")

    @tool
    def delete_note(self, number: int) -> str:
        """Delete a note.

        Args:
            number: its number.
        """
        if self.notes.pop(number, None) is None:
            raise ValueError(f"there is no note {str(number)[:20]}")
        return f"Deleted note {number}."

    def _shown(self, numbers: list[int], otherwise: str) -> str:
        return "\n".join(f"{number}. {self.notes[number]}" for number in numbers) or otherwise


def _search(notes: dict[int, str], query: str) -> list[int]:
    """Return the numbers of the notes that fit, best first, by an index made for this search."""
    match = match_of(query)
    if not match:
        return []
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE notes USING fts5(text, tokenize='porter unicode61')")
        connection.executemany("INSERT INTO notes (rowid, text) VALUES (?, ?)", notes.items())
        found = connection.execute("SELECT rowid FROM notes WHERE notes MATCH ? ORDER BY rank, rowid", (match,))
        return [number for (number,) in found]
