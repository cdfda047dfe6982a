"""What actors see of their environment. Ray takes the word of `num_gpus` for GPUs that are not there."""

from __future__ import annotations

import os

import pytest

from orchestrator.launchers import actor_environment, gpus_of, start_local_cluster
from tests.orchestrator.fakes import run_config


@pytest.mark.parametrize("drivers", [None, "", "cuda"])
def test_actors_are_not_given_the_drivers_accelerator(monkeypatch, drivers):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    if drivers is not None:
        monkeypatch.setenv("DS_ACCELERATOR", drivers)
    assert actor_environment(3) == {
        "OMP_NUM_THREADS": "3",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def test_guest_sees_the_gpus_it_is_shown_and_without_any_none():
    assert actor_environment(1, ["2"])["CUDA_VISIBLE_DEVICES"] == "2"
    assert actor_environment(1, [])["CUDA_VISIBLE_DEVICES"] == ""


def test_ray_that_does_not_start_is_said_in_lines_and_with_the_way_without_it(monkeypatch, caplog):
    import ray

    def late(**_):
        raise Exception("The current node timed out during startup.\nThis could happen " + "because " * 20)

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(RuntimeError, match=r"in 2 tries: .*launcher=inline does the same without Ray\."):
        start_local_cluster(run_config(), {}, attempts=2)
    (record,) = caplog.records
    assert max(map(len, record.getMessage().splitlines())) <= 80


def test_guest_in_a_learners_bundle_sees_the_learners_gpu_and_no_other(tmp_path):
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from orchestrator.actors import LearnerActor, RejuvenationActor

    config = run_config("cluster.num_cpus=2", "cluster.object_store_bytes=100000000")
    start_local_cluster(config, {"num_gpus": 3, "log_to_driver": False})
    try:
        group = placement_group([{"GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}], strategy="PACK")
        assert group.wait(timeout_seconds=60)

        def start(actor_class, name, num_gpus, environment, bundle):
            return (
                ray.remote(actor_class)
                .options(
                    num_cpus=0,
                    num_gpus=num_gpus,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle),
                    runtime_env={"env_vars": environment},
                )
                .remote(name, str(tmp_path), {})
            )

        def visible(actor):
            return ray.get(actor.__ray_call__.remote(lambda _: os.environ.get("CUDA_VISIBLE_DEVICES")), timeout=60)

        start(LearnerActor, "engine", 1, actor_environment(1), 0)
        learner = start(LearnerActor, "learner-0", 1, actor_environment(1), 1)
        gpus = gpus_of(learner, "learner-0", 60)
        assert gpus == [visible(learner)]
        assert visible(start(RejuvenationActor, "guest", 0, actor_environment(1, gpus), 1)) == gpus[0]
        assert visible(start(RejuvenationActor, "blind", 0, actor_environment(1, []), 1)) == ""
    finally:
        ray.shutdown()
