"""Where the parts run: Ray, or one process."""

from __future__ import annotations

from dataclasses import dataclass

from configs import bounds


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """The Ray cluster, and how weights travel over its object store."""

    address: str | None = None
    """Ray address; null starts a local cluster unless the environment (a Ray job) names one."""
    num_cpus: int | None = None
    """CPU cores a local cluster declares; null takes what this process may use."""
    object_store_bytes: int = 536_870_912
    """Size of a local cluster's object store in bytes."""
    bucket_bytes: int = 67_108_864
    """Size of one bucket of weights in bytes; a larger tensor has a bucket of its own."""
    placement_timeout_s: float = 120.0
    """Longest to wait for the placement group; what is missing is said every 30 s."""

    def __post_init__(self) -> None:
        bounds.at_least("cluster.", "object_store_bytes", self.object_store_bytes, 80 << 20)
        bounds.at_least("cluster.", "bucket_bytes", self.bucket_bytes, 1 << 10)
        bounds.seconds("cluster.", "placement_timeout_s", self.placement_timeout_s)
        if self.num_cpus is not None:
            bounds.at_least("cluster.", "num_cpus", self.num_cpus, 1)
