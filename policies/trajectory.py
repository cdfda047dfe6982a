"""What an episode leaves behind: the turns as the engine returned them and the one token sequence to train on.

Legend: T tokens of the whole episode.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

STATUSES = ("finished", "truncated", "tool_error", "environment_error", "timed_out")
FAILED = ("environment_error", "timed_out")
"""Statuses of episodes whose reward says nothing about the policy."""


@dataclass(slots=True)
class TurnRecord:
    """One assistant turn exactly as the engine returned it; never re-rendered, never re-tokenized."""

    prompt_token_ids: list[int]
    """Everything before the turn, as it was given to the engine."""
    token_ids: list[int]
    """Sampled ids, the end-of-turn token included where it was sampled."""
    logprobs: list[float]
    """`rollout_logprobs` of `token_ids`: of the distribution sampled from."""
    finish_reason: str
    """`stop` (an end-of-turn token was sampled) or `length` (cut by the limit)."""
    policy_version: int
    """Version of the weights that sampled the turn."""


@dataclass(slots=True)
class Trajectory:
    """One episode: token ids that were sampled and those the environment added, a mask, and how it went.

    `token_ids`, `loss_mask`, `rollout_logprobs` and `policy_versions` are all [T]. Where `loss_mask` is 0 the token was
    not sampled: its log-probability is 0.0 and its policy version -1.
    """

    group: int
    """Number of the prompt within the training step; the siblings share it."""
    sample: int
    """Number among the siblings of the group."""
    task: dict[str, Any]
    """The environment's task; resetting with it repeats the episode."""
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    rollout_logprobs: list[float] = field(default_factory=list)
    policy_versions: list[int] = field(default_factory=list)
    turns: list[TurnRecord] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    reward: float = 0.0
    status: str = "finished"
    """One of `STATUSES`."""
    error: str = ""
    """What the environment raised, where it did."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the environment put into `info["metrics"]`, summed over steps."""
    seconds: float = 0.0
    """Wall time of the episode."""

    def add_environment_tokens(self, token_ids: list[int]) -> None:
        """Append tokens that the environment (or the template) added: mask 0."""
        count = len(token_ids)
        self.token_ids += token_ids
        self.loss_mask += [0] * count
        self.rollout_logprobs += [0.0] * count
        self.policy_versions += [-1] * count

    def add_turn(self, turn: TurnRecord) -> None:
        """Append a sampled turn: mask 1 on every id the engine returned.

        The caller has added the turn's prompt before, so that the trajectory so far is what the engine was given.
        """
        assert turn.prompt_token_ids == self.token_ids, "the turn was sampled from another prompt"
        assert len(turn.token_ids) == len(turn.logprobs), "one log-probability per sampled token"
        count = len(turn.token_ids)
        self.turns.append(turn)
        self.token_ids = self.token_ids + turn.token_ids
        self.loss_mask += [1] * count
        self.rollout_logprobs += turn.logprobs
        self.policy_versions += [turn.policy_version] * count

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Trajectory:
        """Return the trajectory that `to_json` wrote."""
        return cls(**{**row, "turns": [TurnRecord(**turn) for turn in row["turns"]]})
