"""A task for random models: three turns, and a reward that differs between siblings."""

from __future__ import annotations

from envs import ConversationEnv, Reply


class Relay(ConversationEnv):
    """Rewards an even number of characters; answers every turn but the last."""

    def sample_task(self, rng):
        return {"number": int(rng.integers(1_000_000))}

    def first_messages(self, task):
        return f"start {task['number']}"

    def respond(self, text):
        last = self.turns == 3
        return Reply("" if last else f"you wrote {len(text)}", reward=float(len(text) % 2 == 0) / 3, terminated=last)

    def expert_turns(self, task):
        return ["ab", "cd", "ef"]
