import pytest

from configs.errors import ConfigError
from orchestrator.placement import Bundle, Node, bundles, parse_cluster, shortage, this_machine
from tests.orchestrator.fakes import run_config


def test_one_bundle_per_rank_and_worker_with_gpus_only_on_cuda():
    config = run_config(
        "learner.ranks=2", "learner.cpus=1.5", "rollout.workers=1", "rollout.device=cuda", "rollout.tensor_parallel=2"
    )
    assert bundles(config) == [Bundle("learner-0", 1.5, 0), Bundle("learner-1", 1.5, 0), Bundle("rollout-0", 1.0, 2)]
    assert [b.name for b in bundles(config, learners=False)] == ["rollout-0"]
    assert [b.name for b in bundles(config, rollouts=False)] == ["learner-0", "learner-1"]


def test_hosts_of_environments_processes_have_bundles_of_their_own():
    given = ["rollout.workers=2", "rollout.env_hosts=2", "rollout.env_cpus=3", "learner.ranks=1"]
    assert len(bundles(run_config(*given))) == 3, "threads need none"
    config = run_config(*given, "environment.isolation=process")
    assert bundles(config)[3:] == [Bundle(f"environments-{i}", 3.0, 0) for i in range(4)]
    assert len(bundles(config, learners=False)) == 6
    assert [b.name for b in bundles(config, rollouts=False)] == ["learner-0"]


def test_the_user_model_has_a_bundle_beside_the_rollout_workers():
    config = run_config("user_model.checkpoint=u", "user_model.cpus=2.5")
    assert bundles(config)[-1] == Bundle("user-model", 2.5, 0)
    assert [b.name for b in bundles(config, rollouts=False)] == ["learner-0"]
    on_gpus = run_config("user_model={checkpoint: u, device: cuda, tensor_parallel: 2}")
    assert bundles(on_gpus, learners=False) == [Bundle("rollout-0", 1.0, 0), Bundle("user-model", 1.0, 2)]
    found = shortage(bundles(on_gpus), [Node(8, 1)])
    assert "user-model needs 1 CPUs and 2 GPUs on one node" in found
    assert "1 GPUs short" in found


def test_bundles_that_fit_are_short_of_nothing():
    wanted = [Bundle("a", 1, 0), Bundle("b", 3, 1), Bundle("c", 4, 0)]
    assert shortage(wanted, [Node(4, 1), Node(4, 0)]) is None


def test_shortage_counts_cpus_and_gpus():
    found = shortage([Bundle("learner-0", 4, 2), Bundle("rollout-0", 4, 1)], [Node(6, 1)])
    assert "2 GPUs short, 2 CPUs short" in found
    assert "learner-0 needs 4 CPUs and 2 GPUs on one node" in found
    assert "the run wants 8 CPUs and 3 GPUs in 2 bundles, the cluster has 6 CPUs and 1 GPUs on 1 node(s)" in found


def test_enough_in_all_but_not_on_one_node_is_said():
    found = shortage([Bundle("rollout-0", 1, 2)], [Node(8, 1), Node(8, 1)])
    assert "no single node has room for it beside the others" in found


def test_fractions_of_cores_add_up_without_rounding_errors():
    assert shortage([Bundle(str(i), 0.1, 0) for i in range(10)], [Node(1, 0)]) is None


def test_declared_cluster_has_as_many_equal_nodes():
    assert parse_cluster("nodes=2, gpus=8,cpus=64") == [Node(64, 8), Node(64, 8)]
    assert parse_cluster("cpus=4") == [Node(4, 0)]


@pytest.mark.parametrize("text", ["", "nodes", "nodes=x", "cores=3", "gpus=1", "nodes=0,cpus=1", "cpus=²", "cpus=-1"])
def test_malformed_cluster_is_refused(text):
    with pytest.raises(ConfigError, match="--cluster must"):
        parse_cluster(text)


def test_this_machine_has_the_cores_that_the_configuration_says():
    assert this_machine(run_config("cluster.num_cpus=3"))[0].cpus == 3
    assert this_machine(run_config())[0].cpus >= 1
