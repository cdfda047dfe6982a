"""Environments in processes of their own: the same as in threads, and what goes wrong in one ends there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from configs.environment import EnvironmentConfig, WrapperConfig
from configs.errors import ConfigError
from envs.process_tree import descendants
from envs.processes import EnvironmentFailure, ForkServer, ProcessEnv, fork_server, open_environment, process
from envs.registry import make
from envs.tool_env import ToolEnv
from tests.ended import ended
from tests.envs.broken import STOPS_ITS_SUPERVISOR, WAYS

BROKEN = "tests.envs.broken:BrokenEnv"


@pytest.fixture(scope="module")
def server():
    server = ForkServer()
    yield server
    server.close()


def config(environment_id=BROKEN, kwargs=None, **settings):
    return EnvironmentConfig(environment_id, kwargs or {}, isolation="process", **settings)


def start(server, settings=None, timeout_s=30.0):
    settings = settings or config()
    return ProcessEnv(server.start(settings.memory_bytes), settings, timeout_s)


def step_aside(env, failures):
    """Step in a thread of its own; what it raises goes to `failures`."""

    def step():
        try:
            env.step("a")
        except EnvironmentFailure as failure:
            failures.append(failure)

    thread = threading.Thread(target=step)
    thread.start()
    return thread


# ---- the same as in a thread -----------------------------------------------------------------------------------------

SAME = [
    ("rejuvenate/Lookup-v0", {"split": "heldout", "seed": 3}, []),
    ("rejuvenate/Arithmetic-v0", {"operations_min": 2, "operations_max": 2}, []),
    ("rejuvenate/Retail-v0", {}, [WrapperConfig("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 2})]),
]


@pytest.mark.parametrize(("environment_id", "kwargs", "wrappers"), SAME)
def test_an_environment_in_a_process_is_the_same_as_in_a_thread(server, environment_id, kwargs, wrappers):
    here = make(environment_id, kwargs, wrappers)
    there = start(server, config(environment_id, kwargs, wrappers=wrappers))
    assert there.num_tasks == here.unwrapped.num_tasks
    assert there.unwrapped is there
    assert there.offers_tools is isinstance(here.unwrapped, ToolEnv)
    for index in range(3):
        task = here.unwrapped.task(index)
        assert there.task(index) == task
        assert there.reset(seed=7, options={"task": task}) == here.reset(seed=7, options={"task": task})
        for text in ("数学 \ud800\x00", "#1", "<tool_call>{broken", "on", "and on"):
            found = here.step(text)
            assert there.step(text) == found
            if found[2] or found[3]:
                break
    assert there.demonstration() == here.unwrapped.demonstration()
    assert [*there.reset(seed=5)] == [*here.reset(seed=5)]
    there.close()
    here.close()


def test_an_environment_without_tasks_or_expert_shows_none_and_numbers_of_numpy_are_plain(server):
    env = start(server, config("tests.envs.foreign:ForeignEnv"))
    assert not hasattr(env, "task")
    assert not hasattr(env, "demonstration")
    assert env.num_tasks is None
    _, info = env.reset(seed=11)
    assert info["task"] == {"drawn": int(make("tests.envs.foreign:ForeignEnv").reset(seed=11)[1]["task"]["drawn"])}
    observation, reward, terminated, truncated, info = env.step("a")
    assert (observation, reward, terminated, truncated) == (({"role": "user", "content": "on"},), 0.25, True, False)
    assert (type(reward), type(terminated)) == (float, bool)
    assert info == {"metrics": {"array": [1.0, 2.0]}}, "what training does not read stays there"
    with pytest.raises(EnvironmentFailure, match="TypeError: object is no plain JSON"):
        env.step("b")
    assert env.reset(seed=1)[0], "it can still be used"
    env.close()


def test_a_broken_configuration_is_told_as_one(server):
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.also must be something else, got 'config'. Say so\."):
        start(server, config(kwargs={"also": "config"}))
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.wrong is no argument of BrokenEnv"):
        start(server, config(kwargs={"wrong": 1}))
    assert ended(descendants(server._process.pid)) == []


def test_processes_draw_different_random_numbers(server):
    drawn = []
    for _ in range(2):
        env = start(server, config("tests.envs.foreign:ForeignEnv"))
        drawn.append(env.reset(seed=1)[0][0]["content"])
        env.close()
    assert drawn[0] != drawn[1]
    assert random.random() != float(drawn[0])


# ---- what goes wrong stays there -------------------------------------------------------------------------------------


EXPECTED = {
    "raise": ("environment_error", "KeyError: 'tool broke'"),
    "hang": ("timed_out", "the environment took longer than rollout.step_timeout_s = 1 s"),
    "exit": ("environment_error", "the environment's process ended itself with exit code 7"),
    "kill": ("environment_error", "the environment's process was ended by signal 9 (SIGKILL)"),
    "leak": ("environment_error", "MemoryError: "),
    "bomb": ("environment_error", "the environment's process used more than environment.memory_bytes = 268,435,456 "),
    "fork": ("environment_error", "the environment's process ended itself with exit code 0"),
    "nonsense": ("environment_error", "the environment's process sent or was to get what is no message: "),
    "huge": ("environment_error", "the environment's process sent or was to get what is no message: a message of "),
    "deep": ("environment_error", "the environment's process sent or was to get what is no message: "),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_goes_wrong_in_a_process_is_told_and_leaves_no_process(server, tmp_path, way):
    marks = tmp_path / "marks"
    limit = 1 if way == "hang" else 30
    env = start(server, config(kwargs={"marks": str(marks)}, memory_bytes=256 << 20), timeout_s=limit)
    sibling = start(server)
    env.reset(options={"task": env.task(WAYS.index(way))})
    sibling.reset(options={"task": sibling.task(99)})
    below = [env.process.supervisor, *descendants(env.process.supervisor)]
    with pytest.raises(EnvironmentFailure) as caught:
        env.step("a")
    status, message = EXPECTED[way]
    assert (caught.value.status, str(caught.value)[: len(message)]) == (status, message)
    if way == "raise":
        assert "go_wrong" in caught.value.__notes__[0], "the traceback comes along"
    env.close()
    if way == "fork":
        daemons = [int(line) for line in marks.read_text().split()]
        assert len(daemons) == 6
        below += daemons
    assert ended(below) == []
    assert sibling.step("a")[1] == 0.5, "siblings go on"
    sibling.close()


def test_a_constructor_that_hangs_is_killed(server):
    before = set(descendants(os.getpid()))
    with pytest.raises(EnvironmentFailure, match=r"step_timeout_s = 0\.5 s") as caught:
        start(server, config(kwargs={"also": "hang"}), timeout_s=0.5)
    assert caught.value.status == "timed_out"
    assert ended(set(descendants(os.getpid())) - before - {server._process.pid}) == []


def test_closing_from_another_thread_ends_a_call_at_once(server):
    env = start(server)
    env.reset(options={"task": env.task(WAYS.index("hang"))})
    failures = []
    thread = step_aside(env, failures)
    time.sleep(0.2)
    begun = time.monotonic()
    env.close()
    thread.join(10)
    assert time.monotonic() - begun < 5
    assert [str(failure) for failure in failures] == ["the environment's process was killed"]


def test_a_process_is_worn_out_after_its_episodes_or_with_half_of_its_memory(server):
    env = start(server, config(episodes_per_process=2))
    for worn in (False, False, True):
        assert env.worn_out() is worn
        env.reset(seed=1)
    env.close()
    large = start(server, config("tests.envs.foreign:ForeignEnv", {"holds": 200 << 20}, memory_bytes=300 << 20))
    assert large.worn_out(), "200 MiB of 300"
    large.close()
    assert large.worn_out(), "it ended"


def test_a_close_that_hangs_is_cut_short(server):
    env = start(server, config("tests.envs.foreign:ForeignEnv", {"close_s": 3600.0}))
    begun = time.monotonic()
    env.process.close(timeout_s=0.2)
    assert time.monotonic() - begun < 5
    assert ended([env.process.supervisor]) == []


def test_an_environment_is_closed_by_its_own_close(server, tmp_path):
    env = start(server, config("tests.envs.foreign:ForeignEnv", {"closed": str(tmp_path / "closed")}))
    env.close()
    assert (tmp_path / "closed").read_text() == "closed"
    env.close()


FULL = """
import errno, os
fork, forks, server = os.fork, [], os.getpid()
def full_now_and_then():
    in_server = os.getpid() == server
    forks.append(in_server)
    if forks in ([True, True], [True, True, True, False]):
        raise BlockingIOError(errno.EAGAIN, "no room")
    return fork()
os.fork = full_now_and_then
"""


def test_a_machine_without_room_for_another_process_costs_one_environment_only(monkeypatch):
    """The second supervisor, and the process below the third, cannot be forked."""
    monkeypatch.setattr(fork_server, "_PROGRAM", FULL + fork_server._PROGRAM)
    server = ForkServer()
    first = start(server)
    started = server._process.pid
    with pytest.raises(EnvironmentFailure, match=r"no process can be started for an environment: .*no room"):
        start(server)
    with pytest.raises(EnvironmentFailure, match=r"the environment's process could not be started: .*no room"):
        start(server)
    fourth = start(server)
    assert first.reset(seed=1)
    assert fourth.reset(seed=1)
    assert server._process.pid == started
    server.close()


def test_an_environment_that_stops_its_supervisor_is_killed_with_it(server, monkeypatch):
    monkeypatch.setattr(process, "END_S", 0.3)
    env, sibling = start(server), start(server)
    env.reset(options={"task": env.task(STOPS_ITS_SUPERVISOR)})
    below = [env.process.supervisor, *descendants(env.process.supervisor)]
    env.timeout_s = 0.5
    with pytest.raises(EnvironmentFailure, match=r"took longer than rollout\.step_timeout_s = 0\.5 s"):
        env.step("a")
    env.close()
    assert ended(below) == []
    assert sibling.reset(seed=1), "siblings go on"
    sibling.close()


# ---- whoever is killed, all below goes -------------------------------------------------------------------------------


def test_a_killed_supervisor_takes_its_processes_along(server):
    env = start(server)
    below = descendants(env.process.supervisor)
    os.kill(env.process.supervisor, signal.SIGKILL)
    assert ended(below) == []
    with pytest.raises(EnvironmentFailure, match="lost its supervisor, which was killed"):
        env.reset(seed=1)
    env.close()


def test_daemons_of_a_killed_supervisor_are_killed_too(server, tmp_path):
    marks = tmp_path / "marks"
    env = start(server, config(kwargs={"marks": str(marks), "stay_s": 3600.0}))
    env.reset(options={"task": env.task(WAYS.index("fork"))})
    failures = []
    thread = step_aside(env, failures)
    deadline = time.monotonic() + 30
    while not marks.exists() or len(marks.read_text().split()) < 6:
        assert time.monotonic() < deadline
    os.kill(env.process.supervisor, signal.SIGKILL)
    thread.join(10)
    assert len(failures) == 1
    assert ended([int(line) for line in marks.read_text().split()]) == []
    env.close()


def test_a_killed_fork_server_takes_all_along_and_is_started_anew():
    before = set(descendants(os.getpid()))
    server = ForkServer()
    env = start(server)
    below = [server._process.pid, *descendants(server._process.pid)]
    assert len(below) == 3
    os.kill(server._process.pid, signal.SIGKILL)
    assert ended(below) == []
    with pytest.raises(EnvironmentFailure, match="was killed"):
        env.reset(seed=1)
    env.close()
    again = start(server)
    assert again.reset(seed=1)
    server.close()
    assert ended(set(descendants(os.getpid())) - before) == []


PROGRAM = """
import sys, threading
from configs.environment import EnvironmentConfig
from envs.process_tree import descendants
from envs.processes import ForkServer, ProcessEnv
import os
config = EnvironmentConfig("tests.envs.broken:BrokenEnv", {}, isolation="process")
server = ForkServer()
envs = [ProcessEnv(server.start(config.memory_bytes), config, 600) for _ in range(2)]
envs[0].reset(options={"task": {"number": 1}})
threading.Thread(target=envs[0].step, args=("a",), daemon=True).start()
print(*descendants(os.getpid()), flush=True)
if sys.argv[1] == "held":  # a child that was forked holds all connections open
    if os.fork() == 0:
        import time
        time.sleep(15)
        os._exit(0)
print("now", flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize(
    ("number", "held"), [(signal.SIGKILL, ""), (signal.SIGINT, ""), (signal.SIGTERM, ""), (signal.SIGKILL, "held")]
)
def test_nothing_outlives_the_process_that_wanted_it(number, held):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, held], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    below = [int(pid) for pid in process.stdout.readline().split()]
    assert len(below) == 5, "a fork server, two supervisors, two environments"
    assert process.stdout.readline() == "now\n"
    process.send_signal(number)
    process.wait(30)
    assert ended(below) == []


def test_an_environment_opened_alone_ends_with_its_fork_server():
    before = set(descendants(os.getpid()))
    env = open_environment(config("rejuvenate/Lookup-v0", {"split": "heldout"}))
    assert env.unwrapped.num_tasks == 1000
    started = set(descendants(os.getpid())) - before
    assert len(started) == 3
    env.close()
    assert ended(started) == []
    here = open_environment(EnvironmentConfig("rejuvenate/Lookup-v0"))
    assert set(descendants(os.getpid())) == before
    here.close()


def test_limits_of_open_files_are_raised():
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))\n"
        "from envs.processes import ForkServer; ForkServer(); print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split()[0] == str(min(hard, 65536))


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"isolation": "container"}, "isolation"), ({"memory_bytes": 1 << 20}, "memory_bytes")],
)
def test_settings_out_of_bounds_are_refused(settings, named):
    with pytest.raises(ConfigError, match=f"environment.{named} must be"):
        EnvironmentConfig("x", **settings)


def test_environment_processes_import_nothing_heavy():
    code = "import sys, envs.processes.fork_server; print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"
