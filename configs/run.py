"""The whole configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs import bounds
from configs.algorithm import AlgorithmConfig
from configs.cluster import ClusterConfig
from configs.environment import SETS, EnvironmentConfig, EvaluationConfig
from configs.errors import ConfigError
from configs.learner import LearnerConfig
from configs.model import ModelConfig
from configs.rejuvenation import RejuvenationConfig
from configs.rollout import RolloutConfig
from configs.sft import SftConfig
from configs.user_model import UserModelConfig


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Checkpoints of a run."""

    every_steps: int = 20
    """Save the learner after every so many training steps; 0 saves none. The last step is always exported."""
    keep: int = 2
    """Checkpoints kept; older ones are deleted after a newer one is complete."""

    def __post_init__(self) -> None:
        bounds.at_least("checkpoint.", "every_steps", self.every_steps, 0)
        bounds.at_least("checkpoint.", "keep", self.keep, 1)


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """What a run writes beside its checkpoints."""

    tensorboard: bool = True
    """Write TensorBoard event files."""
    trajectories: bool = True
    """Write every episode to trajectories/step_N.jsonl."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A run: rejuvenate a checkpoint and train it with RL."""

    seed: int = 0
    """The one seed: of tasks, sampling, shuffling and initialisation."""
    run_dir: str = "runs/default"
    """Where everything of the run is written; under a Ray job an absolute path that every actor can write."""
    launcher: str = "ray"
    """`ray`, or `inline`: the same classes in this one process, for a debugger."""
    resume: bool = False
    """Continue the run in `run_dir` from its last complete checkpoint."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Checkpoints."""
    rejuvenation: RejuvenationConfig = field(default_factory=RejuvenationConfig)
    """The repair of the SFT checkpoint."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    """The training task."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Held-out tasks."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Engines and episodes."""
    user_model: UserModelConfig | None = None
    """A second model that is served for the environments, to play the user, say; null serves none."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """Learner ranks and optimizer."""
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    """RL."""
    sft: SftConfig = field(default_factory=SftConfig)
    """Supervised fine-tuning (`rejuvenate sft` only)."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Ray."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Logs."""

    def __post_init__(self) -> None:
        bounds.within("", "seed", self.seed, 0, 2**31 - 1)
        bounds.one_of("", "launcher", self.launcher, ("ray", "inline"))
        if not self.run_dir:
            raise ConfigError("run_dir", "must not be empty", self.run_dir, "Name a directory for the run.")
        if self.launcher == "inline" and (self.learner.ranks != 1 or self.rollout.workers != 1):
            raise ConfigError(
                "launcher",
                "inline holds one learner rank and one rollout worker",
                f"learner.ranks={self.learner.ranks}, rollout.workers={self.rollout.workers}",
                "Set both to 1, or use launcher=ray.",
            )
        if self.rollout.max_tokens >= self.rollout.max_model_len:
            raise ConfigError(
                "rollout.max_tokens",
                f"must be below rollout.max_model_len ({self.rollout.max_model_len})",
                self.rollout.max_tokens,
                "Leave room for the prompt.",
            )
        for task_set in self.evaluation.sets:
            if task_set.max_tokens is not None and task_set.max_tokens >= self.rollout.max_model_len:
                raise ConfigError(
                    f"{SETS}{task_set.name}.max_tokens",
                    f"must be below rollout.max_model_len ({self.rollout.max_model_len})",
                    task_set.max_tokens,
                    "Leave room for the prompt, or raise rollout.max_model_len.",
                )
