"""Hand-written stand-ins for what is slow or heavy: engine, renderer, environments, learner members."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium

from configs.environment import EnvironmentConfig
from configs.loader import load
from configs.rollout import RolloutConfig
from configs.run import RunConfig
from orchestrator.environment_threads import EnvironmentThreads
from policies.engine import Generation, GenerationRequest

END = 0
"""The fake renderer's end-of-turn token."""


def run_config(*overrides: str) -> RunConfig:
    """A small valid configuration."""
    given = ["model.base=b", "model.sft=s", "environment.id=rejuvenate/Arithmetic-v0"]
    return load([], [*given, *overrides])


class FakeConversation:
    def __init__(self, prompt_token_ids: list[int]) -> None:
        self.prompt_token_ids = prompt_token_ids

    def copy(self) -> FakeConversation:
        return self

    def extend(self, turn: dict[str, Any], new: list[dict[str, Any]], *, end_of_turn_sampled: bool) -> list[int]:
        assert turn["role"] == "assistant"
        text = [ord(c) for m in new for c in m["content"]]
        return [*([] if end_of_turn_sampled else [END]), *text, ord(">")]


class FakeRenderer:
    """One token per character: its code point. A turn ends with `END`, a prompt with ord(">")."""

    end_of_turn_id = END

    def __init__(self) -> None:
        self.prompts = 0

    def conversation(self, messages: list[dict[str, Any]], tools: Any = None) -> FakeConversation:
        self.prompts += 1
        return FakeConversation([*(ord(c) for m in messages for c in m["content"]), ord(">")])

    def ends_turn(self, token_id: int) -> bool:
        return token_id == END

    def parse(self, token_ids: list[int]) -> str:
        return "".join(chr(t) for t in token_ids if t != END)


class FakeEngine:
    """Answers every request with "a" and the end of turn, `per_step` requests a step, the newest first."""

    in_process = True

    def __init__(self, per_step: int = 2, version: int = 3) -> None:
        self.per_step = per_step
        self.version = version
        self.waiting: list[GenerationRequest] = []
        self.submitted: list[str] = []
        self.aborted: list[str] = []
        self.fails = False

    def submit(self, request: GenerationRequest) -> None:
        assert request.request_id not in self.submitted, "request ids are unique"
        self.submitted.append(request.request_id)
        self.waiting.append(request)

    def step(self) -> list[Generation]:
        if self.fails:
            raise RuntimeError("engine core died")
        out = [self.waiting.pop() for _ in range(min(self.per_step, len(self.waiting)))]
        return [self.answer(request) for request in out]

    def answer(self, request: GenerationRequest) -> Generation:
        ids, reason = [ord("a"), END], "stop"
        if request.max_tokens < 2:
            ids, reason = [ord("a")], "length"
        prompt = list(request.prompt_token_ids)
        return Generation(request.request_id, prompt, ids, [-0.5] * len(ids), reason, self.version)

    def abort(self, request_ids: list[str]) -> None:
        self.aborted += request_ids
        self.waiting = [r for r in self.waiting if r.request_id not in request_ids]


class ChainEnv(gymnasium.Env):
    """Says "q<task>"; every turn but the last is answered with "+"; reward 1 at the end.

    Tasks are {"n": index}. `turns` turns; `slow_s` seconds in `step` for task `slow_task`; it raises at `bad_task`.
    """

    def __init__(self, turns: int = 1, slow_task: int = -1, slow_s: float = 0.0, bad_task: int = -1, reward=1.0):
        self.turns, self.slow_task, self.slow_s, self.bad_task = turns, slow_task, slow_s, bad_task
        self.reward = reward
        self.closed = False

    def task(self, index: int) -> dict[str, Any]:
        return {"n": index}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.n = (options or {})["task"]["n"]
        self.at = 0
        return ({"role": "user", "content": f"q{self.n}"},), {"task": {"n": self.n}}

    def step(self, text: str):
        if self.n == self.slow_task:
            time.sleep(self.slow_s)
        if self.n == self.bad_task:
            raise KeyError("tool broke")
        self.at += 1
        over = self.at == self.turns
        observation = () if over else ({"role": "user", "content": "+"},)
        return observation, self.reward if over else 0.0, over, False, {"metrics": {"calls": 1}}

    def close(self) -> None:
        self.closed = True


class FakeWorker:
    """What `EpisodeBatch` uses of a `RolloutWorker`."""

    def __init__(self, config: RolloutConfig, engine: FakeEngine, make_env: Any) -> None:
        self.config = config
        self.engine = engine
        self.renderer = FakeRenderer()
        self.threads = EnvironmentThreads(config.env_threads, config.step_timeout_s)
        self.make_env = make_env
        self.returned: list[gymnasium.Env] = []
        self.discarded: list[gymnasium.Env] = []

    def take_env(self, environment: EnvironmentConfig) -> gymnasium.Env:
        return self.make_env()

    def return_env(self, environment: EnvironmentConfig, env: gymnasium.Env) -> None:
        self.returned.append(env)

    def discard_env(self, env: gymnasium.Env) -> None:
        self.discarded.append(env)


class FakeLearners:
    """What checkpoints and steps use of `Workers`: `update` counts, `save` and `export` write small files."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.content = b"weights"

    def update(self, samples: list[Any], loss: Any) -> dict[str, float]:
        self.batches.append(list(samples))
        n = float(len(self.batches))
        return {"loss": n, "tokens": 10.0 * n, "rollout_logprob_gap_max": n / 10, "grad_max": n, "skipped": 0.0}

    def save(self, directory: str) -> None:
        (Path(directory) / "rank_0.pt").write_bytes(self.content)

    def export(self, directory: str, files: dict[str, bytes]) -> None:
        Path(directory).mkdir(parents=True)
        (Path(directory) / "model.safetensors").write_bytes(self.content)


@contextmanager
def takes_less_than(seconds: float) -> Iterator[None]:
    """Assert that what is inside returned in time (generous: the machine may be loaded)."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds
