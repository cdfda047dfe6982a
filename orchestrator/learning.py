"""Learner worker: one learner rank, with what it sends and receives."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.learner import LearnerConfig
from orchestrator.parcel import Parcel, write_small_files
from orchestrator.transport import Transport, publish, receive


class LearnerWorker:
    """A rank of the learner group; constructible without Ray. All ranks get the same calls in the same order."""

    def __init__(self, rank: int, ranks: int, transport: Transport, bucket_bytes: int) -> None:
        self.rank = rank
        self.ranks = ranks
        self.transport = transport
        self.bucket_bytes = bucket_bytes
        self._model_dir: str | None = None
        self._files: dict[str, bytes] = {}
        self._learner: Any = None
        self._config: LearnerConfig | None = None

    def rendezvous(self) -> tuple[str, int]:
        """Address and free port at which rank 0 gathers the group."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        if self.ranks == 1:
            return "127.0.0.1", port
        import ray

        return ray.util.get_node_ip_address(), port

    def join(self, address: str, port: int, local_rank: int) -> None:
        """Say where the group meets; DeepSpeed reads it when the first weights are loaded."""
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(self.ranks),
            LOCAL_RANK=str(local_rank),
            MASTER_ADDR=address,
            MASTER_PORT=str(port),
        )

    def load(self, parcel: Parcel, config: LearnerConfig, seed: int, reference: bool, timeout_s: float) -> None:
        """Take a checkpoint's weights, with a fresh optimizer.

        Args:
            parcel: the checkpoint.
            config: of the learner from here on; another config or other small files build the learner anew.
            seed: of the learner's own random choices.
            reference: keep a frozen copy of these weights for the KL term.
            timeout_s: longest to wait for one bucket.
        """
        from policies.learner import Learner

        if self._learner is None or config != self._config or parcel.files != self._files:
            self.close()
            self._model_dir = write_small_files(parcel.files)
            self._learner = Learner(config, self._model_dir, seed=seed)
            self._config, self._files = config, dict(parcel.files)
        buckets = receive(self.transport, parcel.handles, timeout_s)
        self._learner.load_weights(pair for bucket in buckets for pair in bucket)
        if reference:
            self._learner.snapshot_reference()

    def update(self, samples: Sequence[Any], loss: Any) -> dict[str, float]:
        """One optimizer step over the whole minibatch; every rank is given all of it and takes its part."""
        return self._learner.update(samples, loss)

    def logprobs(
        self, sequences: Sequence[list[int]], temperature: float
    ) -> tuple[list[list[float]], list[list[float]]]:
        """[B][T] log-probabilities and entropies under the present weights."""
        return self._learner.logprobs(sequences, temperature)

    def reset_neurons(self, masks: Any, handles: list[Any] | None, strength: float, timeout_s: float) -> None:
        """Overwrite neurons of the policy under training; see `policies.learner.Learner.reset_neurons`.

        Args:
            masks: the neurons.
            handles: of the buckets of a checkpoint whose values they take; None resets to zero.
            strength: share of the way to these values.
            timeout_s: longest to wait for one bucket.
        """
        targets = None
        if handles is not None:
            targets = (pair for bucket in receive(self.transport, handles, timeout_s) for pair in bucket)
        self._learner.reset_neurons(masks, targets, strength)

    def publish(self, version: int) -> list[Any]:
        """Put the present weights as buckets; handles on rank 0, an empty list elsewhere."""
        named: Iterator[tuple[str, Any]] = self._learner.named_weights()
        if self.rank == 0:
            return publish(self.transport, named, self.bucket_bytes, version)
        for _ in named:  # gathering a partitioned tensor is a collective: every rank walks along
            pass
        return []

    def save(self, directory: str) -> None:
        """Write this rank's part of the learner's state (weights, optimizer, random states) below `directory`."""
        self._learner.save(directory)

    def restore(self, directory: str) -> None:
        """Read what `save` wrote; the caller has verified the files (loading unpickles them)."""
        self._learner.load(directory)

    def export(self, directory: str, files: dict[str, bytes]) -> None:
        """Write the present policy as a Hugging Face directory (rank 0; the others take part in gathering).

        The directory appears whole or not at all.
        """
        named = self._learner.named_weights()
        if self.rank != 0:
            for _ in named:
                pass
            return
        from policies.export import write_checkpoint

        target = Path(directory)
        staging = target.with_name(f".{target.name}.partial")
        shutil.rmtree(staging, ignore_errors=True)
        write_small_files(files, staging)
        write_checkpoint(named, staging)
        os.replace(staging, target)

    def close(self) -> None:
        """Free the model and remove the small files."""
        if self._learner is not None:
            self._learner.close()
            self._learner = None
        if self._model_dir:
            shutil.rmtree(self._model_dir, ignore_errors=True)
            self._model_dir = None
