"""A tool-use environment of one's own: lengths in metres, with a tool that knows the units."""

# ruff: noqa: D102 - the base class documents what these methods do
from envs import ToolEnv, tool

METRES = {"mile": 1609.344, "yard": 0.9144, "foot": 0.3048, "inch": 0.0254}


class UnitConverter(ToolEnv):
    """Asks for a length in metres; the exact answer, to two decimals, earns 1."""

    def sample_task(self, rng):
        return {"amount": int(rng.integers(1, 1000)), "unit": str(rng.choice(list(METRES)))}

    def first_messages(self, task):
        return f"How many metres are {task['amount']} times one {task['unit']}? Answer with two decimals."

    @tool
    def metres(self, amount: int, unit: str) -> str:
        """Convert an amount of some unit (mile, yard, foot or inch) to metres."""
        return f"{amount * METRES[unit]:.2f}"

    def finish(self, text):
        return float(text.strip() == self.metres(**self.current_task))
