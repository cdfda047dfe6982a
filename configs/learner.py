"""Learner: DeepSpeed ranks and their optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from configs import bounds


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """The learner group: `ranks` processes under DeepSpeed ZeRO."""

    ranks: int = 1
    """Learner ranks, one Ray actor each."""
    device: str = "cpu"
    """`cpu` (gloo, float32) or `cuda` (nccl)."""
    cpus: float = 1.0
    """CPU cores each rank asks Ray for."""
    threads: int = 1
    """Threads of torch's CPU kernels in each rank."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage, 0 to 3."""
    dtype: str = "float32"
    """Dtype of forward and backward: float32 (CPU) or bfloat16 (GPU, with float32 master weights). Gradients of
    micro-batches are added up in float32, at `zero_stage` 0 in this dtype."""
    lr: float = 1e-6
    """Learning rate of AdamW, constant after `warmup_steps`."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up."""
    beta1: float = 0.9
    """AdamW's first decay rate."""
    beta2: float = 0.999
    """AdamW's second decay rate."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    micro_batch_tokens: int = 8192
    """Token budget of a micro-batch on one rank, padding counted."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    offload_optimizer: bool = False
    """Keep optimizer states in host memory (ZeRO 1 to 3 on cuda)."""
    timeout_s: float = 600.0
    """Longest one optimizer step, save, load or publication may take."""
    start_timeout_s: float = 600.0
    """Longest the group may take to start and to take a checkpoint's weights."""

    def __post_init__(self) -> None:
        section = "learner."
        bounds.one_of(section, "device", self.device, ("cpu", "cuda"))
        bounds.one_of(section, "dtype", self.dtype, ("float32", "bfloat16"))
        for name in ("ranks", "threads", "micro_batch_tokens"):
            bounds.at_least(section, name, getattr(self, name), 1)
        bounds.within(section, "zero_stage", self.zero_stage, 0, 3)
        for name in ("lr", "eps", "cpus"):
            bounds.above(section, name, getattr(self, name), 0)
        for name in ("timeout_s", "start_timeout_s"):
            bounds.seconds(section, name, getattr(self, name))
        for name in ("weight_decay", "grad_clip", "warmup_steps"):
            bounds.at_least(section, name, getattr(self, name), 0)
        for name in ("beta1", "beta2"):
            bounds.within(section, name, getattr(self, name), 0.0, 0.99999)
