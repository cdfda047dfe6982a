"""The parts of a run, started once: learner ranks, rollout workers and the rejuvenation worker.

`Workers` is all that the loops see; whether its members are Ray actors or objects of this process is the launcher's
business (`orchestrator.launchers`). It is reused for one run after the other (`load` gives it another checkpoint).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

from configs.environment import EnvironmentConfig
from configs.errors import ConfigError
from configs.rollout import RolloutConfig
from configs.run import RunConfig
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.members import Member, Pending, call_all, gather
from orchestrator.parcel import Parcel

TRAVELS = ("max_tokens", "temperature")
"""Fields of `rollout` that go with each batch of episodes (`Sampling`), so that runs on the same workers may differ."""

LAUNCHED = ("ranks", "device", "cpus")
"""Fields of `learner` that are settled when the ranks are launched; the others go with each `load`."""


class Workers:
    """Calls to the members, each with its time limit."""

    def __init__(
        self,
        config: RunConfig,
        learners: Sequence[Member],
        rollouts: Sequence[Member],
        rejuvenator: Member,
        *,
        user_model: Member | None = None,
        starting: Sequence[Pending] = (),
        close: Callable[[], None],
    ) -> None:
        self.config = config
        self.learners = list(learners)
        self.rollouts = list(rollouts)
        self.rejuvenator = rejuvenator
        self.user_model = user_model
        self.version = -1  # nothing published yet
        self._starting = list(starting)
        self._close = close

    def prepare(self, config: RunConfig, output: str, choice: dict[str, Any] | None = None) -> Parcel:
        """Make (or read) the checkpoint that RL starts from; see `RejuvenationWorker.prepare`."""
        call = self.rejuvenator.start(
            "prepare", config.model, config.rejuvenation, config.environment, output, config.seed, choice
        )
        return call.result(config.rejuvenation.timeout_s)

    def candidate(self, config: RunConfig, alpha: float, rho: float) -> tuple[list[Any], float]:
        """Publish one repair that `auto` may take; see `RejuvenationWorker.candidate`."""
        call = self.rejuvenator.start(
            "candidate", config.model, config.rejuvenation, config.environment, config.seed, alpha, rho
        )
        return call.result(config.rejuvenation.timeout_s)

    def read(self, location: str) -> Parcel:
        """Any checkpoint as it is."""
        return self.rejuvenator.start("read", location).result(self.config.rejuvenation.timeout_s)

    def check_fits(self, config: RunConfig) -> None:
        """Check that a run can be done on these workers, which keep the settings that they were launched with.

        Of `rollout`, only what travels with each batch of episodes may differ; of `learner`, what a new optimizer and a
        new engine can take.

        Raises:
            ConfigError: names the first field that differs.
        """
        for section, names in (
            ("rollout", [f.name for f in fields(RolloutConfig) if f.name not in TRAVELS]),
            ("learner", list(LAUNCHED)),
            ("environment", ["isolation"]),  # what hosts its processes is launched with the workers
        ):
            now, then = getattr(config, section), getattr(self.config, section)
            for name in names:
                if getattr(now, name) != getattr(then, name):
                    raise ConfigError(
                        f"{section}.{name}",
                        f"must be as the workers were launched with ({getattr(then, name)!r})",
                        getattr(now, name),
                        "Give all runs on these workers the same value, or launch workers for this run alone.",
                    )
        if self.rollouts and config.user_model != self.config.user_model:
            rule = f"must be as the workers were launched with ({self.config.user_model!r})"
            fix = "Give all runs on these workers the same section, or launch workers for this run alone."
            raise ConfigError("user_model", rule, config.user_model, fix)

    def check_files(self, config: RunConfig) -> None:
        """Check that a run's checkpoints have the tokenizer, template and shape that the engines were started with.

        Raises:
            ConfigError: names the first file that differs.
        """
        if config.model == self.config.model:
            return
        limit = self.config.rejuvenation.timeout_s
        then = self.rejuvenator.start("files", self.config.model).result(limit)
        now = self.rejuvenator.start("files", config.model).result(limit)
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name):
                raise ConfigError(
                    "model",
                    f"must have the {name} that the workers were launched with ({self.config.model.sft})",
                    config.model.sft,
                    "Start a run of its own for checkpoints with another tokenizer, template or shape.",
                )

    def wait_for_engines(self) -> None:
        """Wait until all engines have started, and the user model answers."""
        gather(self._starting, self.config.rollout.start_timeout_s)
        self._starting = []
        self.wait_for_user_model()

    def wait_for_user_model(self) -> None:
        """Wait until the user model answers, where the run serves one: it may be starting again.

        Raises:
            RuntimeError: it does not; the end of its log is in the message.
        """
        if self.user_model is not None:
            assert self.config.user_model is not None
            limit = self.config.user_model.start_timeout_s + 60.0  # the server itself gives up earlier, and says more
            self.user_model.start("wait_until_ready").result(limit)

    def load(self, parcel: Parcel, config: RunConfig) -> None:
        """Hand a checkpoint to the learner group, with a fresh optimizer."""
        reference = config.algorithm.kl_coef > 0
        self.config = replace(self.config, learner=config.learner)  # its time limits hold from here on
        call_all(
            self.learners,
            "load",
            parcel,
            config.learner,
            config.seed,
            reference,
            config.learner.timeout_s,
            timeout_s=config.learner.start_timeout_s,
        )

    def publish(self, version: int) -> None:
        """The learners publish their weights as `version`; every engine takes them."""
        handles = call_all(self.learners, "publish", version, timeout_s=self.config.learner.timeout_s)[0]
        self.deliver(handles, version)

    def deliver(self, handles: list[Any], version: int) -> None:
        """Every engine takes published buckets as `version`."""
        self.wait_for_engines()
        held = call_all(self.rollouts, "update_weights", handles, version, timeout_s=self.config.rollout.timeout_s)
        assert held == [version] * len(self.rollouts), (held, version)
        self.version = version

    def generate(self, jobs: Sequence[EpisodeJob], environment: EnvironmentConfig, sampling: Sampling) -> list[Any]:
        """Run episodes, whole groups dealt over the rollout workers; trajectories in the order of `jobs`."""
        self.wait_for_user_model()
        count = len(self.rollouts)
        shares = [[job for job in jobs if job.group % count == i] for i in range(count)]
        calls = [
            (i, member.start("run", shares[i], environment, sampling))
            for i, member in enumerate(self.rollouts)
            if shares[i]
        ]
        limit = self.config.rollout.timeout_s + 60.0  # the worker itself gives up earlier, and says more
        results = gather([call for _, call in calls], limit)
        found = {(t.group, t.sample): t for batch in results for t in batch}
        return [found[job.group, job.sample] for job in jobs]

    def reset_prefix_cache(self) -> None:
        """Empty the engines' prefix caches."""
        call_all(self.rollouts, "reset_prefix_cache", timeout_s=self.config.rollout.timeout_s)

    def update(self, samples: Sequence[Any], loss: Any) -> dict[str, float]:
        """One optimizer step of the learner group; the figures are equal on all ranks."""
        return call_all(self.learners, "update", samples, loss, timeout_s=self.config.learner.timeout_s)[0]

    def reset_neurons(self, masks: Any, target: Parcel | None = None, strength: float = 1.0) -> None:
        """Overwrite neurons of the policy under training on all learner ranks; engines get them with `publish`.

        Args:
            masks: the neurons (`rejuvenation.neurons.NeuronTable.masks`).
            target: the checkpoint whose values they take (see `read`); None resets to zero.
            strength: share of the way to these values, in [0, 1].
        """
        limit = self.config.learner.timeout_s
        handles = None if target is None else target.handles
        call_all(self.learners, "reset_neurons", masks, handles, strength, limit, timeout_s=limit)

    def save(self, directory: str) -> None:
        """Every rank writes its state below `directory`."""
        call_all(self.learners, "save", directory, timeout_s=self.config.learner.timeout_s)

    def restore(self, directory: str) -> None:
        """Every rank reads its state from a verified `directory`."""
        call_all(self.learners, "restore", directory, timeout_s=self.config.learner.timeout_s)

    def export(self, directory: str, files: dict[str, bytes]) -> None:
        """Write the present policy as a Hugging Face directory."""
        call_all(self.learners, "export", directory, files, timeout_s=self.config.learner.timeout_s)

    def close(self) -> None:
        """End all members."""
        self._close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
