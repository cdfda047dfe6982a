"""Questions whose answers stand in documents: how high two towers are together, with the tool `search`."""

# ruff: noqa: D102 - the base classes document what these methods do
import json
from pathlib import Path

from envs.memory_tool import MemoryToolEnv
from envs.search_tool import SearchToolEnv

DOCUMENTS = Path(__file__).with_name("lighthouses.jsonl")
HEIGHTS = {row["place"]: row["height"] for row in map(json.loads, DOCUMENTS.read_text().splitlines())}


class Lighthouses(SearchToolEnv, MemoryToolEnv):
    """Asks for the sum of the heights of two lighthouses; the answer `#n` earns 1."""

    def __init__(self, documents=str(DOCUMENTS), **kwargs):
        super().__init__(documents=documents, **kwargs)

    def sample_task(self, rng):
        return {"places": rng.choice(sorted(HEIGHTS), size=2, replace=False).tolist()}

    def first_messages(self, task):
        first, second = task["places"]
        return (
            f"How many metres are the lighthouses of {first} and {second} together? Search, then answer with # and n."
        )

    def finish(self, text):
        return float(text.strip() == f"#{sum(HEIGHTS[place] for place in self.current_task['places'])}")

    def expert_turns(self, task):
        calls = [self.write_call("search", {"query": f"lighthouse of {place}", "limit": 1}) for place in task["places"]]
        return [*calls, f"#{sum(HEIGHTS[place] for place in task['places'])}"]
