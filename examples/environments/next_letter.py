"""A tool-use environment of one's own: so many steps along the alphabet, with a tool that takes one."""

# ruff: noqa: D102 - the base class documents what these methods do
from envs import ToolEnv, tool

LETTERS = list("abcdefghijklmnopqrstuvwxyz")


class NextLetter(ToolEnv):
    """Asks for the letter so many steps after another: to `y3` the answer is `#b`, which earns 1."""

    def sample_task(self, rng):
        return {"letter": str(rng.choice(LETTERS)), "steps": int(rng.integers(1, 5))}

    def first_messages(self, task):
        return f"{task['letter']}{task['steps']}"

    @tool
    def lookup(self, key: str) -> str:
        """Return the letter after `key` in the alphabet; after z comes a."""
        return LETTERS[(LETTERS.index(key) + 1) % 26]

    def finish(self, text):
        place = LETTERS.index(self.current_task["letter"]) + self.current_task["steps"]
        return float(text.strip() == "#" + LETTERS[place % 26])
