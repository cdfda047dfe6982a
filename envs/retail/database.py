"""The desk's database: SQLite in memory, one copy per episode, restored from a template that a process makes once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

Record = dict[str, Any]
"""One user, order or product, as tau-bench writes it in JSON."""

TABLES = ("users", "orders", "products")


def make_template(tables: Mapping[str, Mapping[str, Record]]) -> bytes:
    """Write the initial database.

    Args:
        tables: name in `TABLES` -> id -> record; the order of the ids is kept.

    Returns:
        The database as SQLite writes it to a file, from which `Database` starts.
    """
    connection = sqlite3.connect(":memory:")
    for table in TABLES:
        connection.execute(f"CREATE TABLE {table} (id TEXT PRIMARY KEY, record TEXT NOT NULL)")
        rows = ((key, json.dumps(record)) for key, record in tables[table].items())
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
    connection.commit()
    template = connection.serialize()
    connection.close()
    return template


class Database:
    """The records of one episode. Reading gives a copy of a record; only `write` changes the database.

    Args:
        template: what `make_template` gave.
    """

    def __init__(self, template: bytes) -> None:
        # an episode's turns may run in different threads, one after the other
        self._connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._connection.deserialize(template)
        self._before: dict[tuple[str, str], str] = {}

    def read(self, table: str, key: str) -> Record | None:
        """Return a record, None where there is none with this id."""
        row = self._connection.execute(f"SELECT record FROM {table} WHERE id = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def records(self, table: str) -> Iterator[tuple[str, Record]]:
        """Yield id and record of every row, in the order of the data."""
        for key, text in self._connection.execute(f"SELECT id, record FROM {table} ORDER BY rowid"):
            yield key, json.loads(text)

    def find_users(self, path: str, value: str) -> list[tuple[str, Record]]:
        """Return the users whose field is `value`, ASCII letters alike in both cases, in the order of the data.

        Args:
            path: SQLite's path of the field in the record, for example `$.email`.
            value: what it must be.
        """
        query = "SELECT id, record FROM users WHERE lower(json_extract(record, ?)) = lower(?) ORDER BY rowid"
        return [(key, json.loads(text)) for key, text in self._connection.execute(query, (path, value))]

    def write(self, table: str, key: str, record: Record) -> None:
        """Replace the record with this id."""
        (before,) = self._connection.execute(f"SELECT record FROM {table} WHERE id = ?", (key,)).fetchone()
        self._before.setdefault((table, key), before)
        self._connection.execute(f"UPDATE {table} SET record = ? WHERE id = ?", (json.dumps(record), key))

    def changes(self) -> dict[str, dict[str, Record]]:
        """Return table -> id -> record of what differs from the template; tables and records without change are absent.

        Two databases of one template are equal where their changes are.
        """
        changed: dict[str, dict[str, Record]] = {}
        for (table, key), before in self._before.items():
            record = self.read(table, key)
            if record is not None and record != json.loads(before):
                changed.setdefault(table, {})[key] = record
        return changed

    def close(self) -> None:
        """Free the memory; a second call changes nothing."""
        self._connection.close()
