"""A full-text index of documents in one SQLite file (FTS5), ranked by BM25."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from envs.conversation import KWARGS
from envs.records import read_records

SUFFIX = ".fts5"
"""How the name of a finished index ends."""
TOKENIZERS = {"porter": "porter unicode61", "unicode61": "unicode61", "trigram": "trigram"}
"""Name -> FTS5's tokenizer: English words by their stems, words as they are, or any three characters in a row."""
MOST_TERMS = 64
SEARCH_S = 10.0
"""Longest time of one search."""
_FORMAT = 1
_TERM = re.compile(r"\w{1,100}")
_SCHEMA = """
CREATE TABLE source (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(title, text, content='source', content_rowid='number', tokenize='{tokenizer}');
"""
_SEARCH = """
SELECT source.id, source.title, snippet(words, 1, '', '', ' ... ', 48) FROM words JOIN source ON number = words.rowid
WHERE words MATCH ? ORDER BY rank, words.rowid LIMIT ?
"""

_BUILDING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that a search found."""

    id: str
    """Its id."""
    title: str
    """Its title; empty where it has none."""
    snippet: str
    """The part of its text that fits best, up to 48 words."""


class SearchIndex:
    """A finished index, opened for reading; threads have connections of their own.

    Args:
        path: file that `build` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        try:
            (version,) = self._connection().execute("PRAGMA user_version").fetchone()
            (self.size,) = self._connection().execute("SELECT count(*) FROM source").fetchone()
        except sqlite3.Error as error:
            raise ValueError(f"{path} is no search index ({error})") from error
        if version != _FORMAT:
            raise ValueError(f"{path} is a search index of another version ({version})")

    def search(self, query: str, limit: int) -> list[Hit]:
        """Return the documents that fit best, best first: those with any of the query's words, by BM25.

        Args:
            query: any text; its punctuation means nothing, and words beyond the 64th are left out.
            limit: most documents.

        Raises:
            TimeoutError: it took longer than `SEARCH_S`.
        """
        match = match_of(query)
        if not match:
            return []
        connection, deadline = self._connection(), time.monotonic() + SEARCH_S
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        try:
            return [Hit(*row) for row in connection.execute(_SEARCH, (match, limit))]
        except sqlite3.OperationalError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the search took longer than {SEARCH_S:g} seconds; search for fewer words"
                ) from error
            raise
        finally:
            connection.set_progress_handler(None, 0)

    def read(self, document: str) -> tuple[str, str] | None:
        """Return title and text of a document; None where there is no such id."""
        document = document.encode("utf-8", "replace").decode()
        row: tuple[str, str] | None = (
            self._connection().execute("SELECT title, text FROM source WHERE id = ?", (document,)).fetchone()
        )
        return row

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection, which cannot write."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            address = f"{self._path.resolve().as_uri()}?mode=ro&immutable=1"
            found = self._local.connection = sqlite3.connect(address, uri=True)
        return found


def match_of(query: str) -> str:
    """Return a text as an FTS5 query for any of its words, quoted, so that none is an operator; "" without words."""
    terms = dict.fromkeys(_TERM.findall(query.encode("utf-8", "replace").decode()))
    return " OR ".join(f'"{term}"' for term in list(terms)[:MOST_TERMS])


def build(documents: Iterable[tuple[str, str, str]], path: Path, tokenizer: str = "porter") -> None:
    """Write an index. The file appears whole or not at all.

    Args:
        documents: (id, title, text) of each.
        path: file to write; one that is there is replaced.
        tokenizer: a name in `TOKENIZERS`.

    Raises:
        ValueError: an id stands twice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".partial", dir=path.parent)
    os.close(handle)
    try:
        with contextlib.closing(sqlite3.connect(name)) as connection, connection:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
            connection.executescript(_SCHEMA.format(tokenizer=TOKENIZERS[tokenizer]))
            try:
                connection.executemany("INSERT INTO source (id, title, text) VALUES (?, ?, ?)", documents)
            except sqlite3.IntegrityError as error:
                raise ValueError(f"an id stands twice ({error})") from error
            connection.execute("INSERT INTO words(words) VALUES ('rebuild')")
            connection.execute("INSERT INTO words(words) VALUES ('optimize')")
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(name)


@functools.lru_cache(maxsize=16)
def index_of(path: str, id_field: str, title_field: str, text_field: str, tokenizer: str) -> SearchIndex:
    """Return the index of a file of documents, once for all environments of a process.

    A file of documents is indexed the first time, into the user's cache folder (`$XDG_CACHE_HOME`, by default
    `~/.cache`), and again after it has changed.

    Args:
        path: an index (`.fts5`), or documents as `envs.records.read_records` takes them.
        id_field: column with a document's id; where a row has none, it is its place in the file.
        title_field: column with its title, or of a column that no row has.
        text_field: column with its text.
        tokenizer: a name in `TOKENIZERS`.

    Raises:
        ConfigError: no such file, no index, or a row without text.
    """
    field = KWARGS + "documents"
    file = Path(os.path.expanduser(path))
    try:
        if file.suffix == SUFFIX:
            if not file.is_file():
                raise ConfigError(field, "must be a file", path, "Build it with envs.search_index.build.")
            return SearchIndex(file)
        stat = file.stat() if file.is_file() else None
        about = (str(file.resolve()), stat and (stat.st_size, stat.st_mtime_ns), id_field, title_field, text_field)
        digest = hashlib.blake2b(repr((*about, tokenizer, _FORMAT)).encode(), digest_size=12).hexdigest()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rejuvenate" / "search"
        kept = cache / f"{digest}{SUFFIX}"
        with _BUILDING:
            if not kept.is_file():
                build(_documents(path, id_field, title_field, text_field), kept, tokenizer)
        return SearchIndex(kept)
    except ConfigError as error:
        raise ConfigError(field, error.rule, error.value, error.fix) from error
    except (ValueError, OSError, sqlite3.Error) as error:
        fix = "Give a JSONL or Parquet file of documents, or an index that envs.search_index.build wrote."
        raise ConfigError(field, f"must be documents that can be searched ({error})", path, fix) from error


def _documents(path: str, id_field: str, title_field: str, text_field: str) -> Iterable[tuple[str, str, str]]:
    """Yield (id, title, text) of each row."""
    for number, (where, record) in enumerate(read_records(path, "train", None)):
        text = record.get(text_field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            rule, fix = f"must hold a text in {text_field!r} on {where}", "Set text_field, or correct the row."
            raise ConfigError(KWARGS + "documents", rule, path, fix)
        identifier = record.get(id_field)
        yield str(number if identifier is None else identifier), str(record.get(title_field) or ""), text
