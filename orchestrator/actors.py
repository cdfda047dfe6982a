"""Ray actors: thin shells that start the plain classes in processes of their own, with their output in log files.

Nothing heavy is imported before `setup`, so that an actor answers at once and a broken placement shows early.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.learner import LearnerConfig
from configs.rollout import RolloutConfig
from configs.user_model import UserModelConfig


class Shell:
    """What every actor does first: redirect its output, and be callable for any method of its target."""

    def __init__(self, name: str, log_dir: str, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        self._redirect(Path(log_dir) / f"{name}.log")
        self.target: Any = None
        self.model_dir: str | None = None

    def _redirect(self, path: Path) -> None:
        """Send stdout and stderr, of C libraries too, to a file; where it cannot be written keep Ray's own."""
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(log, 1)
            os.dup2(log, 2)

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of the target."""
        return getattr(self.target, method)(*args, **kwargs)

    def probe(self, run_dir: str, token: str, name: str) -> str | None:
        """Check that this process sees and can write the run directory; a complaint, or None."""
        from orchestrator.run_directory import probe

        return probe(Path(run_dir), token, name)

    def export(self, variables: Mapping[str, str]) -> None:
        """Set environment variables; what is secret comes this way, as a runtime environment is shown and logged."""
        os.environ.update(variables)

    def close(self) -> None:
        """End what the target holds and remove the small files that were written for it."""
        if self.model_dir is not None:
            shutil.rmtree(self.model_dir, ignore_errors=True)
        if hasattr(self.target, "close"):
            self.target.close()


class RolloutActor(Shell):
    """A rollout worker in its own process."""

    def setup(
        self, config: RolloutConfig, files: dict[str, bytes], log_path: str | None, hosts: Sequence[Any] = ()
    ) -> int:
        """Start the engine; returns the process id. `hosts` keep its environments that are isolated in processes."""
        from orchestrator.environment_hosts import HostedProcesses
        from orchestrator.parcel import write_small_files
        from orchestrator.rollout import RolloutWorker
        from orchestrator.transport import ObjectStoreTransport

        self.model_dir = write_small_files(files)
        processes = HostedProcesses(hosts) if hosts else None
        self.target = RolloutWorker(config, self.model_dir, ObjectStoreTransport(), log_path, processes)
        return os.getpid()


class EnvironmentActor(Shell):
    """A host of environments' processes. Ray starts it anew where it dies: it needs no set-up but its construction."""

    def __init__(self, name: str, log_dir: str, environment: Mapping[str, str]) -> None:
        super().__init__(name, log_dir, environment)
        from orchestrator.environment_hosts import EnvironmentHost

        self.target = EnvironmentHost()


class LearnerActor(Shell):
    """A learner rank in its own process."""

    def setup(self, rank: int, config: LearnerConfig, bucket_bytes: int) -> int:
        """Make the rank; returns the process id."""
        from orchestrator.learning import LearnerWorker
        from orchestrator.transport import ObjectStoreTransport

        self.target = LearnerWorker(rank, config.ranks, ObjectStoreTransport(), bucket_bytes)
        return os.getpid()


class RejuvenationActor(Shell):
    """The rejuvenation worker in its own process."""

    def setup(self, bucket_bytes: int) -> int:
        """Make the worker; returns the process id."""
        from orchestrator.rejuvenating import RejuvenationWorker
        from orchestrator.transport import ObjectStoreTransport

        self.target = RejuvenationWorker(ObjectStoreTransport(), bucket_bytes)
        return os.getpid()


class UserModelActor(Shell):
    """The server of the user model; its processes are children of this one and end with it."""

    def setup(self, config: UserModelConfig, key: str, log_path: str, on_loopback: bool) -> str:
        """Start the server; returns its address, where it will answer once it is ready."""
        import ray

        from envs.user_model import MODEL_NAME
        from policies.model_server import ModelServer

        host = "127.0.0.1" if on_loopback else ray.util.get_node_ip_address()
        self.target = ModelServer(config, MODEL_NAME, key, log_path, host)
        return self.target.url
