"""Hosts of environments' processes: as plain objects, and as Ray actors that die and come back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from configs.environment import EnvironmentConfig
from configs.errors import ConfigError
from envs.process_tree import descendants
from envs.processes import EnvironmentFailure, ProcessEnv
from envs.user_model import URL_VARIABLE
from orchestrator.actors import EnvironmentActor
from orchestrator.environment_hosts import EnvironmentHost, HostedProcesses, value_of
from orchestrator.launchers import start_local_cluster
from tests.ended import ended
from tests.envs.broken import WAYS
from tests.orchestrator.fakes import run_config, takes_less_than

BROKEN = EnvironmentConfig("tests.envs.broken:BrokenEnv", {}, isolation="process")
MAKE = {"environment_id": BROKEN.id, "kwargs": {}, "wrappers": []}


def made(host, path, **kwargs):
    name = value_of(host.start(BROKEN.memory_bytes, {}))
    value_of(host.call_environment(name, "make", {**MAKE, "kwargs": kwargs, "path": path}, 30.0))
    return name


def test_a_host_answers_with_plain_data_whatever_happens():
    import sys

    before = set(descendants(os.getpid()))
    host = EnvironmentHost()
    host.begin({})
    name = made(host, sys.path)
    assert host.call_environment(name, "task", {"index": 3}, 30.0) == ("value", {"number": 3})
    host.call_environment(name, "reset", {"seed": 1, "options": {"task": {"number": 0}}}, 30.0)
    kind, status, message, place, notes = host.call_environment(name, "step", {"action": "a"}, 30.0)
    assert (kind, status, message) == ("failure", "environment_error", "KeyError: 'tool broke'")
    assert "broken.py" in place
    assert "in go_wrong" in notes[0]
    assert host.memory_bytes(name)[1] > 10 << 20
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.also must be something else"):
        made(host, sys.path, also="config")
    host.call_environment(name, "reset", {"seed": 1, "options": {"task": {"number": WAYS.index("hang")}}}, 30.0)
    with pytest.raises(TimeoutError):
        value_of(host.call_environment(name, "step", {"action": "a"}, 0.3))
    host.end(name, 5.0)
    host.end(name, 5.0)
    with pytest.raises(EnvironmentFailure, match="is gone: its host was restarted"):
        value_of(host.call_environment(name, "task", {"index": 3}, 30.0))
    host.close()
    assert ended(set(descendants(os.getpid())) - before) == []


def test_names_of_two_hosts_differ():
    """A host that was started anew must not take the calls for the processes of the one before."""
    names = [next(EnvironmentHost()._names) for _ in range(2)]
    assert names[0] != names[1]


def below(pid):
    return [pid, *descendants(pid)]


def has_below(pid, count):
    """Whether so many processes are left below one, after a little patience with those that are being waited for."""
    deadline = time.monotonic() + 10
    while len(below(pid)) != 1 + count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.timeout(300)
def test_actors_host_environments_and_come_back_when_they_die(tmp_path, monkeypatch):
    import ray

    monkeypatch.delenv(URL_VARIABLE, raising=False)
    config = run_config("cluster.num_cpus=2", "cluster.object_store_bytes=100000000")
    start_local_cluster(config, {"log_to_driver": False})
    try:
        hosts = [
            ray.remote(EnvironmentActor)
            .options(num_cpus=0, max_restarts=-1, max_concurrency=8)
            .remote(f"environments-{i}", str(tmp_path), {})
            for i in range(2)
        ]
        pids = [ray.get(host.__ray_call__.remote(lambda _: os.getpid()), timeout=120) for host in hosts]
        processes = HostedProcesses(hosts)
        processes.begin()
        envs = [ProcessEnv(processes.start(BROKEN.memory_bytes), BROKEN, 30.0) for _ in range(4)]
        assert all(has_below(pid, 1 + 2 * 2) for pid in pids), "dealt evenly: a fork server, two processes each"

        for env, number in zip(envs, (100, 0, WAYS.index("kill"), 101), strict=True):
            env.reset(options={"task": env.task(number)})
        assert envs[0].step("a")[1] == 0.5
        with pytest.raises(EnvironmentFailure, match="KeyError: 'tool broke'") as caught:
            envs[1].step("a")
        assert "in go_wrong" in caught.value.__notes__[0]
        with pytest.raises(EnvironmentFailure, match="was ended by signal 9"):
            envs[2].step("a")
        wrong = EnvironmentConfig(BROKEN.id, {"also": "config"}, isolation="process")
        process = processes.start(wrong.memory_bytes)
        with pytest.raises(ConfigError, match="must be something else"):
            ProcessEnv(process, wrong, 30.0)
        envs[2].close()

        # a call that hangs is killed by its host, at its limit
        late = ProcessEnv(processes.start(BROKEN.memory_bytes), BROKEN, 30.0)
        late.reset(options={"task": late.task(WAYS.index("hang"))})
        late.timeout_s = 0.5
        with takes_less_than(20), pytest.raises(EnvironmentFailure, match="took longer than") as caught:
            late.step("a")
        assert caught.value.status == "timed_out"
        late.close()

        # a host that is killed takes its own environments along, and no other; Ray starts it anew
        doomed = below(pids[0])
        os.kill(pids[0], signal.SIGKILL)
        assert ended(doomed, patience_s=30) == []
        assert envs[0].process._host is hosts[0]
        with pytest.raises(EnvironmentFailure, match="host") as caught:
            envs[0].reset(seed=1)
        assert caught.value.status == "environment_error"
        others = [env for env in (envs[1], envs[3]) if env.process._host is hosts[1]]
        assert others, "the other host has two"
        for env in others:
            env.reset(options={"task": env.task(100)})
            assert env.step("a")[1] == 0.5
        deadline = time.monotonic() + 120
        fresh = None
        while fresh is None:
            assert time.monotonic() < deadline
            try:
                fresh = ray.get(hosts[0].__ray_call__.remote(lambda _: os.getpid()), timeout=60)
            except ray.exceptions.RayError:
                time.sleep(0.5)
        for env in envs:
            env.close()
        monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:1/v1")
        again = [ProcessEnv(processes.start(BROKEN.memory_bytes), BROKEN, 30.0) for _ in range(4)]
        assert all(has_below(pid, 1 + 2 * 2) for pid in (fresh, pids[1])), "whole again"
        assert all(env.reset(options={"task": env.task(100)}) for env in again)
        told = Path(f"/proc/{descendants(fresh)[0]}/environ").read_bytes()
        assert f"{URL_VARIABLE}=http://127.0.0.1:1/v1".encode() in told, "what the first host was told, the new one is"
        started = [pid for host in (fresh, pids[1]) for pid in below(host)]
        for host in hosts:
            ray.kill(host)
        assert ended(started, patience_s=30) == []
    finally:
        ray.shutdown()
    assert not any("fork_server" in " ".join(p.cmdline()) for p in psutil.Process().children(recursive=True))
