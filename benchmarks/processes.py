"""`make bench-processes`: what an environment in a process of its own costs, beside one in a thread.

A process is started, asked and measured as a rollout worker does it, with and without an actor of Ray's in between.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium

from configs.environment import EnvironmentConfig
from envs.process_tree import descendants
from envs.processes import ForkServer, ProcessEnv
from envs.registry import make

ENVIRONMENT = EnvironmentConfig("rejuvenate/Lookup-v0", {}, isolation="process")
CALL = '<tool_call>{"name": "lookup", "arguments": {"key": "a"}}</tool_call>'


def step_ms(env: gymnasium.Env[Any, Any], steps: int) -> float:
    """Return the median time of a step with a tool call, in milliseconds."""
    times = []
    while len(times) < steps:
        env.reset(seed=len(times))
        ended = False
        while not ended:
            begin = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(CALL)
            times.append(1e3 * (time.perf_counter() - begin))
            ended = terminated or truncated
    return statistics.median(times)


def proportional_bytes(processes: list[int]) -> int:
    """Return the memory of processes; what several share counts once, by equal parts."""
    total = 0
    for process in processes:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += int(next(line for line in lines if line.startswith("Pss:")).split()[1]) << 10
    return total


def measure_actor(steps: int) -> float:
    """Return the time of a step in a process that an actor keeps."""
    import ray

    from orchestrator.actors import EnvironmentActor
    from orchestrator.environment_hosts import HostedProcesses

    with tempfile.TemporaryDirectory() as folder:
        ray.init(address="local", num_cpus=1, object_store_memory=100_000_000, log_to_driver=False)
        try:
            host = ray.remote(EnvironmentActor).options(num_cpus=0, max_concurrency=8).remote("host", folder, {})
            processes = HostedProcesses([host])
            processes.begin()
            env = ProcessEnv(processes.start(ENVIRONMENT.memory_bytes), ENVIRONMENT, 60.0)
            measured = step_ms(env, steps)
            env.close()
        finally:
            ray.shutdown()
    return measured


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--no-actor", action="store_true")
    given = parser.parse_args(arguments)

    in_thread = step_ms(make(ENVIRONMENT.id, ENVIRONMENT.kwargs, []), given.steps)
    server = ForkServer()
    server.begin()
    started, envs = [], []
    for _ in range(given.processes):
        begin = time.perf_counter()
        envs.append(ProcessEnv(server.start(ENVIRONMENT.memory_bytes), ENVIRONMENT, 60.0))
        started.append(1e3 * (time.perf_counter() - begin))
    in_process = step_ms(envs[0], given.steps)
    running = [env.process.supervisor for env in envs]  # type: ignore[attr-defined]
    running += [below for supervisor in running for below in descendants(supervisor)]
    memory = proportional_bytes(running) / len(envs)
    for env in envs:
        env.close()
    server.close()

    say(f"step in a thread            {in_thread:8.3f} ms   (medians; {ENVIRONMENT.id})")
    say(f"step in a process           {in_process:8.3f} ms")
    if not given.no_actor:
        say(f"step in a process of an actor {measure_actor(given.steps):6.3f} ms")
    say(f"start of a process, environment made {statistics.median(started):.0f} ms")
    say(f"memory of a process and its supervisor {memory / (1 << 20):.1f} MiB   ({given.processes} at once)")


if __name__ == "__main__":
    main()
