"""User model: a second vLLM engine, which the run places and serves for its environments."""

from __future__ import annotations

from dataclasses import dataclass

from configs import bounds
from configs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class UserModelConfig:
    """A model at an OpenAI-compatible address of the run's own, for the simulated user or for a judge."""

    checkpoint: str = "???"
    """Hugging Face directory with a chat template, on the node that serves it, or a hub name `organisation/name`."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    tensor_parallel: int = 1
    """GPUs of the engine (cuda only)."""
    cpus: float = 1.0
    """CPU cores that the server, all its processes together, asks Ray for."""
    threads: int = 1
    """Threads of the engine's CPU kernels."""
    dtype: str = "float32"
    """Dtype of the weights: float32, bfloat16 or float16."""
    max_model_len: int = 4096
    """Longest conversation in tokens: the user's instructions and all that was said, with the answer."""
    max_num_seqs: int = 64
    """Messages that the engine writes at once; further requests wait."""
    kv_cache_bytes: int = 268_435_456
    """Size of the key/value cache on CPU in bytes (on cuda `gpu_memory_utilization` decides)."""
    gpu_memory_utilization: float = 0.85
    """Share of each GPU's memory for the engine (cuda only)."""
    enforce_eager: bool = True
    """Skip graph capture and compilation: starts faster, decodes slower on GPUs."""
    start_timeout_s: float = 600.0
    """Longest that the server may take until it answers, at the start and after its one restart."""

    def __post_init__(self) -> None:
        section = "user_model."
        bounds.one_of(section, "device", self.device, ("cpu", "cuda"))
        bounds.one_of(section, "dtype", self.dtype, ("float32", "bfloat16", "float16"))
        for name in ("tensor_parallel", "threads", "max_num_seqs"):
            bounds.at_least(section, name, getattr(self, name), 1)
        if self.device == "cpu" and self.tensor_parallel > 1:
            rule = "must be 1 where user_model.device is cpu"
            fix = "Leave it at 1, or set user_model.device to cuda."
            raise ConfigError(section + "tensor_parallel", rule, self.tensor_parallel, fix)
        bounds.at_least(section, "max_model_len", self.max_model_len, 2)
        bounds.at_least(section, "kv_cache_bytes", self.kv_cache_bytes, 1 << 20)
        bounds.above(section, "cpus", self.cpus, 0)
        bounds.seconds(section, "start_timeout_s", self.start_timeout_s)
        bounds.within(section, "gpu_memory_utilization", self.gpu_memory_utilization, 0.05, 0.98)
