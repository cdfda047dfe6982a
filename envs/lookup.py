"""Following a hidden map with a tool: a multi-turn tool-use task that a pico model can learn.

```
user       a3                                  follow the map three times from a
assistant  <tool_call>
           {"name": "lookup", "arguments": {"key": "a"}}
           </tool_call>
tool       k
           ... two more calls ...
assistant  #q
```
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from configs import bounds
from envs.conversation import KWARGS, Reply, check_range
from envs.tool_env import ToolEnv
from envs.tools import tool
from envs.verifiers import answer_after

LETTERS = string.ascii_lowercase
MOST_HOPS = len(LETTERS) - 1


class LookupEnv(ToolEnv):
    """`rejuvenate/Lookup-v0`: the reward is for the letter reached after as many look-ups as the user asks for.

    The map is one random cycle through the 26 letters, drawn anew for every task: every number of hops up to 25 ends at
    another letter, so that only the right number of look-ups finds the answer. Train on more hops than the
    demonstrations showed, and the policy must explore.

    Args:
        hops_min: fewest hops of a task.
        hops_max: most hops of a task.
        ood_hops_min: fewest hops in the `ood` split; None: as in the others.
        ood_hops_max: most hops in the `ood` split; None: as in the others.
        max_turns: assistant turns before truncation; None: three more than the longest task needs look-ups.
        correct_reward: reward of the right letter.
        wrong_reward: reward of any other final answer.
        error_text: what the model is told about a failed call; None: what was wrong with it.
        **kwargs: `split`, `seed`, `tool_parser`, ... of `ToolEnv`.
    """

    def __init__(
        self,
        *,
        hops_min: int = 1,
        hops_max: int = 3,
        ood_hops_min: int | None = None,
        ood_hops_max: int | None = None,
        max_turns: int | None = None,
        correct_reward: float = 1.0,
        wrong_reward: float = 0.0,
        error_text: str | None = None,
        split: str = "train",
        **kwargs: Any,
    ) -> None:
        check_range("hops_min", hops_min, "hops_max", hops_max, 1, MOST_HOPS)
        self.hops = (hops_min, hops_max)
        if split == "ood":
            low = hops_min if ood_hops_min is None else ood_hops_min
            high = max(low, hops_max) if ood_hops_max is None else ood_hops_max
            check_range("ood_hops_min", low, "ood_hops_max", high, 1, MOST_HOPS)
            self.hops = (low, high)
        turns = self.hops[1] + 3 if max_turns is None else max_turns
        bounds.at_least(KWARGS, "max_turns", turns, self.hops[1] + 1)  # else the longest task could not be solved
        super().__init__(split=split, max_turns=turns, **kwargs)
        self.max_reward = correct_reward
        self.wrong_reward = wrong_reward
        self.error_text = error_text

    def sample_task(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the start, the number of hops and the map."""
        order = rng.permutation(len(LETTERS)).tolist()
        mapping = [""] * len(LETTERS)
        for position, letter in enumerate(order):
            mapping[letter] = LETTERS[order[position - 1]]
        hops = int(rng.integers(self.hops[0], self.hops[1] + 1))
        return {"start": LETTERS[int(rng.integers(len(LETTERS)))], "hops": hops, "map": "".join(mapping)}

    def first_messages(self, task: dict[str, Any]) -> str:
        """Return start and number of hops, for example `a3`."""
        if len(task["map"]) != len(LETTERS) or task["start"] not in LETTERS:
            raise ValueError(f"a task needs a start letter and a map of {len(LETTERS)} letters, got {task!r}.")
        return f"{task['start']}{task['hops']}"

    @tool
    def lookup(self, key: str) -> str:
        """Return the letter that the map gives for a letter.

        Args:
            key: one letter from a to z.
        """
        if len(key) != 1 or key not in LETTERS:
            raise ValueError("key must be one letter from a to z")
        return str(self.current_task["map"][LETTERS.index(key)])

    def describe_error(self, error: str) -> str:
        """Return the fixed text where one is set."""
        return super().describe_error(error) if self.error_text is None else self.error_text

    def answer(self, text: str) -> Reply:
        """Reward `#x` with x the letter reached."""
        correct = answer_after(text) == self._path(self.current_task)[-1]
        reward = self.max_reward if correct else self.wrong_reward
        return Reply(reward=reward, terminated=True, metrics={"success": float(correct)})

    def expert_turns(self, task: dict[str, Any]) -> list[str]:
        """Return one look-up per hop, then the answer."""
        path = self._path(task)
        return [self.write_call("lookup", {"key": key}) for key in path[:-1]] + [f"#{path[-1]}"]

    def _path(self, task: dict[str, Any]) -> list[str]:
        """Return the letters from the start to the answer, hops + 1 of them."""
        path = [str(task["start"])]
        for _ in range(int(task["hops"])):
            path.append(str(task["map"][LETTERS.index(path[-1])]))
        return path
