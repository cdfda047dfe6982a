"""Tasks of reasoning-gym: more than 100 generators of reasoning problems, each with its own scorer."""

from __future__ import annotations

import functools
import importlib.util
import json
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from configs import bounds
from configs.errors import ConfigError
from envs.conversation import KWARGS, ConversationEnv, Reply
from envs.reasoning_gym.process import PROCESS, Ended, Failed, TooLong
from envs.verifiers import text_between

INSTRUCTION = "Think step by step, then give only the final answer between <answer> and </answer>."
MOST_CHARACTERS = 20_000
"""A longer answer is wrong without being scored."""
GENERATION_S = 60.0
"""Longest time of making one task."""


class ReasoningGymEnv(ConversationEnv):
    """Single turn; the reward is what the generator's own scorer gives the text in the last `<answer>...</answer>`.

    It needs the extra `reasoning-gym`, so it has no registered id: use `envs.reasoning_gym:ReasoningGymEnv`. A turn
    without an answer earns 0, and so does one whose scoring raises or takes too long; `info["metrics"]` counts
    `answered`, `scorer_errors` and `scorer_timeouts`, and `success` for the full score.

    Args:
        name: generator, for example `countdown`; a wrong name is answered with the right ones.
        config: settings of the generator, for example `{min_numbers: 3}`; not `seed` and `size`.
        instruction: text put behind every question.
        score_limit_s: longest time of scoring one answer.
        **kwargs: `split`, `seed` and `render_mode` of `ConversationEnv`.
    """

    def __init__(
        self,
        *,
        name: str,
        config: Mapping[str, Any] | None = None,
        instruction: str = INSTRUCTION,
        score_limit_s: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        bounds.within(KWARGS, "score_limit_s", score_limit_s, 0.1, 600)
        if importlib.util.find_spec("reasoning_gym") is None:
            fix = "Install the extra `reasoning-gym` (pip install -e '.[reasoning-gym]' in the checkout)."
            raise ConfigError(KWARGS + "name", "needs the package reasoning-gym", name, fix)
        if not isinstance(name, str):
            raise ConfigError(KWARGS + "name", "must be the name of a generator", name, "Write countdown, say.")
        if not isinstance(config or {}, Mapping):
            raise ConfigError(KWARGS + "config", "must hold settings by name", config, "Write {min_numbers: 3}, say.")
        self.name = name
        self.instruction = instruction
        self.score_limit_s = score_limit_s
        self._config = _as_json(config or {})
        problem = _checked(name, self._config)
        if problem is not None:
            value = (config or {}).get(problem["field"].removeprefix("config."), config)
            value = name if problem["field"] == "name" else value
            raise ConfigError(KWARGS + problem["field"], problem["rule"], value, problem["fix"])

    def sample_task(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a seed and make its task."""
        seed = int(rng.integers(2**31))
        made = PROCESS.ask(self._request(seed), GENERATION_S)
        return {"seed": seed, "question": made["question"], "answer": made["answer"]}

    def task(self, index: int) -> dict[str, Any]:
        """Return task number `index` of the split; the last few thousand of this process are remembered."""
        key = (self.name, self._config, self.task_seed, self.split, index)
        with _TASKS_LOCK:
            known = _TASKS.get(key)
        if known is None:
            known = json.dumps(super().task(index))
            with _TASKS_LOCK:
                _TASKS[key] = known
                if len(_TASKS) > _MOST_TASKS:
                    del _TASKS[next(iter(_TASKS))]  # the oldest
        return dict(json.loads(known))

    def task_key(self, task: dict[str, Any]) -> str:
        """Return the question: equal ones belong to one split, whatever their seeds are."""
        return str(task["question"])

    def first_messages(self, task: dict[str, Any]) -> str:
        """Return the question and the instruction."""
        return f"{task['question']}\n{self.instruction}".strip()

    def respond(self, text: str) -> Reply:
        """Score the answer."""
        answer = text_between(text, "<answer>", "</answer>")
        metrics = {"answered": float(answer is not None), "scorer_errors": 0.0, "scorer_timeouts": 0.0}
        reward = 0.0
        if answer is not None and len(answer) <= MOST_CHARACTERS:
            request = self._request(self.current_task["seed"])
            made = PROCESS.ask(request, GENERATION_S)  # now, so that the limit on scoring is for scoring alone
            if made["question"] != self.current_task["question"]:
                raise ValueError("the task was made with other settings, or by another version of reasoning-gym.")
            answer = answer.encode("utf-8", "replace").decode()  # no half of a surrogate pair
            try:
                reward = float(PROCESS.ask(request | {"answer": answer}, self.score_limit_s)["score"])
            except (Failed, Ended):
                metrics["scorer_errors"] = 1.0
            except TooLong:
                metrics["scorer_timeouts"] = 1.0
        metrics["success"] = float(reward > 1 - 1e-6)  # many scorers give a little for any answer
        return Reply(reward=reward, terminated=True, metrics=metrics)

    def expert_turns(self, task: dict[str, Any]) -> list[str] | None:
        """Return the package's own answer; None where it gives none, as for tasks with many solutions."""
        return None if task["answer"] is None else [f"<answer>{task['answer']}</answer>"]

    def _request(self, seed: int) -> dict[str, Any]:
        return {"name": self.name, "config": json.loads(self._config), "seed": seed}


_TASKS: dict[tuple[str, str, int, str, int], str] = {}
_MOST_TASKS = 4096
_TASKS_LOCK = threading.Lock()


@functools.lru_cache(maxsize=256)
def _checked(name: str, config: str) -> dict[str, str] | None:
    """Return what is wrong with a generator's name or settings."""
    made = PROCESS.ask({"name": name, "config": json.loads(config), "seed": 0}, GENERATION_S)
    problem: dict[str, str] | None = made.get("problem")
    return problem


def _as_json(config: Mapping[str, Any]) -> str:
    """Return settings as JSON."""
    try:
        return json.dumps(dict(config), sort_keys=True)
    except (TypeError, ValueError) as error:
        rule = f"must be plain JSON ({error})"
        raise ConfigError(KWARGS + "config", rule, config, "Use numbers, text, lists and mappings.") from error
