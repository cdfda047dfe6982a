"""The tools `search` and `read_document`: a full-text search over documents of one's own."""

from __future__ import annotations

from typing import Any

from configs import bounds
from envs.conversation import KWARGS
from envs.search_index import TOKENIZERS, SearchIndex, index_of
from envs.tool_env import ToolEnv
from envs.tools import tool


class SearchToolEnv(ToolEnv):
    """A `ToolEnv` with the tools `search(query, limit)` and `read_document(document, start)`.

    All environments of a process read one index, which no episode can change.

    Args:
        documents: JSONL or Parquet file with one document a row, or an index that `envs.search_index.build` wrote.
        id_field: column with a document's id; its place in the file where a row has none.
        title_field: column with its title, if there is one.
        text_field: column with its text.
        tokenizer: `porter` (English, by the stems of words), `unicode61` (words as they are) or `trigram` (any three
            characters in a row, for scripts without spaces).
        max_results: most results of one search.
        max_characters: most characters of a result's snippet, and of the part of a document that is read.
        **kwargs: those of `ToolEnv`.
    """

    def __init__(
        self,
        *,
        documents: str,
        id_field: str = "id",
        title_field: str = "title",
        text_field: str = "text",
        tokenizer: str = "porter",
        max_results: int = 5,
        max_characters: int = 2000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        bounds.one_of(KWARGS, "tokenizer", tokenizer, TOKENIZERS)
        bounds.within(KWARGS, "max_results", max_results, 1, 100)
        bounds.within(KWARGS, "max_characters", max_characters, 20, 1_000_000)
        self._index = (str(documents), id_field, title_field, text_field, tokenizer)
        self.max_results = max_results
        self.max_characters = max_characters
        assert self.index.size >= 0  # made or opened now, so that a wrong file is said at once

    @property
    def index(self) -> SearchIndex:
        """The index; it is not part of the environment, which can be sent to another process."""
        return index_of(*self._index)

    @tool
    def search(self, query: str, limit: int = 5) -> str:
        """Search the documents and return the ones that fit best, each with its id and a part of its text.

        Args:
            query: words to search for.
            limit: most documents.
        """
        hits = self.index.search(query, max(1, min(limit, self.max_results)))
        lines = [f"[{hit.id}] {hit.title}\n{hit.snippet[: self.max_characters]}" for hit in hits]
        return "\n\n".join(lines) or "No document has any of these words."

    @tool
    def read_document(self, document: str, start: int = 0) -> str:
        """Return the text of a document, from a character on.

        Args:
            document: id of the document, as a search gives it.
            start: number of the first character.
        """
        found = self.index.read(document) or self.index.read(document.strip().removeprefix("[").removesuffix("]"))
        if found is None:
            raise ValueError(f"there is no document '{document[:50]}'")
        text = found[1]
        start = max(0, min(start, len(text)))
        part = text[start : start + self.max_characters]
        left = len(text) - start - len(part)
        return f"{part}\n[{left} more characters; go on with start={start + len(part)}]" if left else part
