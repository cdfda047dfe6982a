"""Rollout: the vLLM engines and how episodes run on them."""

from __future__ import annotations

from dataclasses import dataclass

from configs import bounds
from configs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """Rollout workers, one vLLM engine each."""

    workers: int = 1
    """Number of rollout workers; each has one engine and runs whole episodes."""
    device: str = "cpu"
    """`cpu` (engine in the worker's process) or `cuda` (vLLM's own processes)."""
    tensor_parallel: int = 1
    """GPUs per engine (cuda only)."""
    cpus: float = 1.0
    """CPU cores each rollout worker asks Ray for."""
    threads: int = 1
    """Threads of the engine's CPU kernels."""
    dtype: str = "float32"
    """Dtype of the engine's weights: float32, bfloat16 or float16."""
    max_model_len: int = 512
    """Longest episode in tokens: prompt, completions and what the environment adds; at it the episode is truncated."""
    max_num_seqs: int = 256
    """Sequences that the engine decodes at once."""
    max_tokens: int = 128
    """Longest single assistant turn in sampled tokens."""
    temperature: float = 1.0
    """Sampling temperature, above 0; the rollout log-probabilities are those of the tempered distribution."""
    kv_cache_bytes: int = 268_435_456
    """Size of the key/value cache on CPU in bytes (on cuda `gpu_memory_utilization` decides)."""
    gpu_memory_utilization: float = 0.85
    """Share of each GPU's memory for the engine (cuda only)."""
    enforce_eager: bool = True
    """Skip graph capture and compilation: starts faster, decodes slower on GPUs."""
    env_threads: int = 512
    """Most threads in which environments are made, reset and stepped, per worker: up to 8 for those that compute, and
    one for each call that waits for something else, a tool say; calls that take less than 0.5 ms share one more. Idle
    environments are kept for later episodes, as many per worker as its largest batch had episodes."""
    env_processes: int = 16
    """Most environments in processes of their own (`environment.isolation: process`) at once, per worker, idle ones
    of the training environment and of all evaluation sets together; other episodes wait until one is free."""
    env_hosts: int = 1
    """Ray actors per worker that keep these processes, on any node that has room (launcher `ray` only; with `inline`
    they are children of the one process)."""
    env_cpus: float = 1.0
    """CPU cores each of these actors asks Ray for."""
    deterministic: bool = False
    """Wait for all environments before each engine step, so that two runs decode the same batches: exact resume
    needs it; with slow tools it costs time."""
    step_timeout_s: float = 60.0
    """Longest an environment's constructor and `reset`, or one `step`, may take; past it the episode ends as
    `timed_out`."""
    episode_timeout_s: float | None = None
    """Longest one episode may take, from the making of its environment on; past it it ends as `timed_out`. null: as
    long as its batch may."""
    timeout_s: float = 600.0
    """Longest one batch of episodes, or one weight update, may take."""
    start_timeout_s: float = 600.0
    """Longest an engine may take to start."""

    def __post_init__(self) -> None:
        section = "rollout."
        bounds.one_of(section, "device", self.device, ("cpu", "cuda"))
        bounds.one_of(section, "dtype", self.dtype, ("float32", "bfloat16", "float16"))
        for name in ("workers", "tensor_parallel", "threads", "max_num_seqs", "max_tokens"):
            bounds.at_least(section, name, getattr(self, name), 1)
        for name in ("env_threads", "env_processes", "env_hosts"):
            bounds.at_least(section, name, getattr(self, name), 1)
        if self.device == "cpu" and self.tensor_parallel > 1:
            rule = "must be 1 where rollout.device is cpu"
            fix = "Leave it at 1, or set rollout.device to cuda."
            raise ConfigError(section + "tensor_parallel", rule, self.tensor_parallel, fix)
        bounds.at_least(section, "max_model_len", self.max_model_len, 2)
        bounds.at_least(section, "kv_cache_bytes", self.kv_cache_bytes, 1 << 20)
        bounds.above(section, "temperature", self.temperature, 0.0)
        for name in ("cpus", "env_cpus"):
            bounds.above(section, name, getattr(self, name), 0)
        for name in ("step_timeout_s", "timeout_s", "start_timeout_s"):
            bounds.seconds(section, name, getattr(self, name))
        if self.episode_timeout_s is not None:
            bounds.seconds(section, "episode_timeout_s", self.episode_timeout_s)
        if self.env_hosts > self.env_processes:
            rule = f"must be <= rollout.env_processes ({self.env_processes})"
            raise ConfigError(section + "env_hosts", rule, self.env_hosts, "A host without a process is of no use.")
        bounds.within(section, "gpu_memory_utilization", self.gpu_memory_utilization, 0.05, 0.98)
