"""Start the members of a run: as Ray actors in a placement group, or as objects of this process."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.run import RunConfig
from orchestrator.members import InlineMember, InlinePending, Member, RayMember, RayPending, gather
from orchestrator.parcel import write_small_files
from orchestrator.placement import USER_MODEL, Bundle, Node, bundles, shortage
from orchestrator.user_model import close_inline, serve_inline, serve_on
from orchestrator.workers import Workers

log = logging.getLogger("rejuvenate")

REPORT_EVERY_S = 30.0
LINE = 80
"""Columns of what is said while a run starts."""
CLOSE_S = 10.0
"""Longest an actor may take to end its engine and remove its temporary files; then it is killed."""


def launch(config: RunConfig, run_dir: Path, *, learners: bool = True, rollouts: bool = True) -> Workers:
    """Start the members that a command needs.

    Args:
        config: `launcher` chooses how.
        run_dir: where logs go; exists.
        learners: start the learner ranks.
        rollouts: start the rollout workers (their engines go on starting after this returns).

    Raises:
        RuntimeError: the cluster lacks resources, or a member cannot write the run directory.
    """
    return LAUNCHERS[config.launcher](config, run_dir, learners, rollouts)


def launch_inline(config: RunConfig, run_dir: Path, learners: bool, rollouts: bool) -> Workers:
    """Everything in this process, for a debugger: one learner rank, one rollout worker."""
    from policies.zero import DEPRECATED

    warnings.filterwarnings("ignore", DEPRECATED, FutureWarning)  # before any of these imports DeepSpeed or vLLM
    from orchestrator.learning import LearnerWorker
    from orchestrator.rejuvenating import RejuvenationWorker
    from orchestrator.rollout import RolloutWorker
    from orchestrator.transport import InProcessTransport

    transport = InProcessTransport()
    repairer = RejuvenationWorker(transport, config.cluster.bucket_bytes)
    model_dir: str | None = None
    ranks: list[Member] = []
    engines: list[Member] = []
    server = serve_inline(config, run_dir) if rollouts else None

    def close() -> None:
        for member in [*ranks, *engines]:
            assert isinstance(member, InlineMember)
            member.target.close()  # type: ignore[attr-defined]
        if server is not None:
            close_inline(server)
        if model_dir is not None:
            shutil.rmtree(model_dir, ignore_errors=True)

    try:
        if learners:
            learner = LearnerWorker(0, 1, transport, config.cluster.bucket_bytes)
            learner.join(*learner.rendezvous(), local_rank=0)  # before vLLM: DeepSpeed then shares its process group
            ranks = [InlineMember("learner-0", learner)]
        if rollouts:
            model_dir = write_small_files(repairer.files(config.model))
            worker = RolloutWorker(config.rollout, model_dir, transport, str(run_dir / "logs" / "rollout-0.log"))
            engines = [InlineMember("rollout-0", worker)]
    except BaseException:
        close()
        raise
    rejuvenator = InlineMember("rejuvenation", repairer)
    return Workers(config, ranks, engines, rejuvenator, user_model=server, starting=[InlinePending(None)], close=close)


def launch_ray(config: RunConfig, run_dir: Path, learners: bool, rollouts: bool) -> Workers:
    """Ray actors in one placement group, on a local cluster or on the one that the environment names."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from orchestrator.actors import EnvironmentActor, LearnerActor, RejuvenationActor, RolloutActor, UserModelActor

    started_here = connect(config)
    wanted = bundles(config, learners=learners, rollouts=rollouts)
    actors: list[Any] = []
    group = None

    def close() -> None:
        with contextlib.suppress(Exception):  # a call to an actor that is busy or dead ends with the limit
            ray.wait([actor.close.remote() for actor in actors], num_returns=len(actors), timeout=CLOSE_S)
        for actor in actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)
        if group is not None:
            with contextlib.suppress(Exception):
                remove_placement_group(group)
        if started_here:
            ray.shutdown()

    try:
        check_room(wanted)
        group = placement_group([resources(bundle) for bundle in wanted], strategy="PACK")
        await_placement(group, wanted, config.cluster.placement_timeout_s)
        places = {bundle.name: i for i, bundle in enumerate(wanted)}

        def start(
            actor_class: type,
            name: str,
            bundle: str,
            threads: int,
            *,
            shared_gpus: Sequence[str] | None = None,
            **options: Any,
        ) -> Any:
            """Start an actor with all that its bundle has, or as a guest in it that sees only `shared_gpus`."""
            place = wanted[places[bundle]]
            guest = shared_gpus is not None
            actor = (
                ray.remote(actor_class)
                .options(
                    num_cpus=0 if guest else place.cpus,
                    num_gpus=0 if guest else place.gpus,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(group, places[bundle]),
                    runtime_env={"env_vars": actor_environment(threads, shared_gpus)},
                    **options,
                )
                .remote(name, str(run_dir / "logs"), {})
            )
            actors.append(actor)
            return actor

        names: list[str] = []
        ranks = []
        for i in range(config.learner.ranks if learners else 0):
            names.append(f"learner-{i}")
            ranks.append(start(LearnerActor, names[-1], names[-1], config.learner.threads))
        engines = []
        for i in range(config.rollout.workers if rollouts else 0):
            names.append(f"rollout-{i}")
            engines.append(start(RolloutActor, names[-1], names[-1], config.rollout.threads))
        hosts = []
        for name in (bundle.name for bundle in wanted if bundle.name.startswith("environments-")):
            names.append(name)
            # a call and its end for every process at once, and some for what concerns the host itself
            lanes = 2 * config.rollout.env_processes + 4
            hosts.append(start(EnvironmentActor, name, name, 1, max_restarts=-1, max_concurrency=lanes))
        # Asking Ray for no GPU hides none: it would see those of engines and of other jobs.
        on_gpu = bool(ranks) and config.learner.device == "cuda"
        gpus = gpus_of(ranks[0], "learner-0", config.cluster.placement_timeout_s) if on_gpu else []
        threads = config.learner.threads
        repairer = start(RejuvenationActor, "rejuvenation", wanted[0].name, threads, shared_gpus=gpus)
        names.append("rejuvenation")
        server = None
        if USER_MODEL in places:
            assert config.user_model is not None
            server = start(UserModelActor, USER_MODEL, USER_MODEL, config.user_model.threads)
            names.append(USER_MODEL)
        probe_run_directory(run_dir, names, actors, config.cluster.placement_timeout_s)

        limit = config.learner.start_timeout_s  # the first import of torch and the like on a machine takes its time
        bucket_bytes = config.cluster.bucket_bytes
        user_model = None
        if server is not None:
            tell = {"rejuvenation": repairer} | {f"rollout-{i}": actor for i, actor in enumerate(engines)}
            tell |= {f"environments-{i}": host for i, host in enumerate(hosts)}
            user_model = serve_on(server, group, config, run_dir, tell, limit)
        rejuvenator = RayMember("rejuvenation", repairer)
        setups = [RayPending("rejuvenation", "setup", repairer.setup.remote(bucket_bytes))]
        members = []
        for i, actor in enumerate(ranks):
            setups.append(RayPending(f"learner-{i}", "setup", actor.setup.remote(i, config.learner, bucket_bytes)))
            members.append(RayMember(f"learner-{i}", actor))
        gather(setups, limit)
        if members:
            join(members, limit)
        starting = []
        if engines:
            files = rejuvenator.start("files", config.model).result(config.rejuvenation.timeout_s)
            for i, actor in enumerate(engines):
                log_path = str(run_dir / "logs" / f"rollout-{i}.log")
                own = hosts[i :: len(engines)]
                setup = actor.setup.remote(config.rollout, files, log_path, own)
                starting.append(RayPending(f"rollout-{i}", "setup", setup))
        rollout_members = [RayMember(f"rollout-{i}", actor) for i, actor in enumerate(engines)]
    except BaseException:
        close()
        raise
    return Workers(config, members, rollout_members, rejuvenator, user_model=user_model, starting=starting, close=close)


def connect(config: RunConfig) -> bool:
    """Connect to the cluster, or start a local one, which then ends with this process.

    Returns:
        True when this call connected: whoever called it disconnects. False where Ray was connected already.

    Raises:
        ConfigError: there is no cluster at the address.
    """
    import ray

    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    logging.getLogger("ray").setLevel(logging.ERROR)  # its hints about defaults are not the user's business
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address:
        try:
            ray.init(address=address, **common)
        except ConnectionError as error:
            reason = str(error).partition("\n")[0]
            rule = f"must be the address of a running Ray cluster ({reason})"
            fix = "Start it with `ray start --head`, or leave the field and RAY_ADDRESS out for a local one."
            raise ConfigError("cluster.address", rule, address, fix) from error
        return True
    start_local_cluster(config, common)
    return True


def start_local_cluster(config: RunConfig, common: dict[str, Any], attempts: int = 3) -> None:
    """Start Ray on this machine; its processes end with this one.

    Ray gives its own processes a fixed 30 s to come up, which a machine under full load misses: it is tried again.

    Raises:
        RuntimeError: it did not start in `attempts` tries.
    """
    import ray

    for attempt in range(1, attempts + 1):
        try:
            ray.init(
                address="local",
                num_cpus=config.cluster.num_cpus or len(os.sched_getaffinity(0)),
                object_store_memory=config.cluster.object_store_bytes,
                include_dashboard=False,
                **common,
            )
            return
        except Exception as error:  # Ray raises bare Exception when its processes are late
            ray.shutdown()
            reason = " ".join(str(error).split())
            if attempt == attempts:
                raise RuntimeError(
                    f"Ray did not start on this machine in {attempts} tries: {reason} Is the machine under full load, "
                    "or out of memory or of space in /tmp? On one machine, launcher=inline does the same without Ray."
                ) from error
            log.warning("%s", textwrap.fill(f"Ray did not start ({reason}); trying again", LINE))


def actor_environment(threads: int, gpus: Sequence[str] | None = None) -> dict[str, str]:
    """Environment variables that an actor's libraries read when they are imported.

    Args:
        threads: of CPU kernels.
        gpus: ids of the GPUs to be seen by an actor that asks Ray for none; by default all of its node.
    """
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # where it gives no GPU, Ray leaves CUDA_VISIBLE_DEVICES as it is
    }
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


def gpus_of(actor: Any, name: str, timeout_s: float) -> list[str]:
    """Ids, on its node, of the GPUs that Ray gave `actor`.

    Raises:
        MemberFailed: it did not start within `timeout_s`.
    """

    def ids(_: Any) -> list[str]:
        import ray

        return ray.get_runtime_context().get_accelerator_ids()["GPU"]

    return RayPending(name, "start", actor.__ray_call__.remote(ids)).result(timeout_s)


def resources(bundle: Bundle) -> dict[str, float]:
    """A bundle in Ray's words."""
    return {"CPU": bundle.cpus} | ({"GPU": float(bundle.gpus)} if bundle.gpus else {})


def cluster_nodes() -> list[Node]:
    """The nodes of the connected cluster."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(node.get("CPU", 0.0), int(node.get("GPU", 0))) for node in alive]


def check_room(wanted: Sequence[Bundle]) -> None:
    """Raise `RuntimeError`, saying what is short, when the connected cluster can never hold the bundles."""
    short = shortage(wanted, cluster_nodes())
    if short:
        raise RuntimeError(
            f"The run does not fit: {short} Lower rollout.workers, learner.ranks or the cpus, or add nodes."
        )


def await_placement(group: Any, wanted: Sequence[Bundle], timeout_s: float) -> None:
    """Wait for the placement group; every 30 s say what is free and what is wanted.

    Raises:
        RuntimeError: not placed within `timeout_s`.
    """
    import ray

    need = f"{sum(b.cpus for b in wanted):g} CPUs and {sum(b.gpus for b in wanted)} GPUs in {len(wanted)} bundles"
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        if group.wait(timeout_seconds=max(0.1, min(left, REPORT_EVERY_S))):
            return
        free = ray.available_resources()
        have = f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs are free"
        if time.monotonic() >= deadline:
            raise RuntimeError(
                f"No placement within cluster.placement_timeout_s = {timeout_s:.0f} s: the run wants {need}; {have}. "
                "Another job holds the rest: wait for it, or raise the limit."
            )
        log.warning("waiting for placement: the run wants %s; %s", need, have)


def probe_run_directory(run_dir: Path, names: Sequence[str], actors: Sequence[Any], timeout_s: float) -> None:
    """Check that every actor sees this run directory and can write it.

    Raises:
        RuntimeError: names the actor and what is wrong.
    """
    from orchestrator.run_directory import leave_token, seen

    token = leave_token(run_dir, secrets.token_hex(8))
    calls = [
        RayPending(name, "start", actor.probe.remote(str(run_dir), token, name))
        for name, actor in zip(names, actors, strict=True)
    ]
    complaints = [complaint for call in calls if (complaint := call.result(timeout_s))]
    complaints += [] if complaints else seen(run_dir, names)
    if complaints:
        raise RuntimeError(
            f"{complaints[0]} Set run_dir to a directory on storage that all nodes share (it is {run_dir} now)."
        )


def join(members: Sequence[Member], timeout_s: float) -> None:
    """Tell all ranks where rank 0 gathers them."""
    address, port = members[0].start("rendezvous").result(timeout_s)
    for member in members:
        member.start("join", address, port, 0).result(timeout_s)  # Ray shows each actor its own GPU as number 0


LAUNCHERS: dict[str, Callable[[RunConfig, Path, bool, bool], Workers]] = {"ray": launch_ray, "inline": launch_inline}

__all__ = ["LAUNCHERS", "cluster_nodes", "connect", "launch"]
