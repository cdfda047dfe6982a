import math
import subprocess
import sys
import threading
import time

import pytest

from configs.errors import ConfigError
from envs.processes import EnvironmentFailure
from orchestrator.environment_threads import EnvironmentThreads
from tests.orchestrator.fakes import takes_less_than


def collect_all(threads):
    return threads.collect(patience_s=math.inf, wait_for_one=True)


def test_outcomes_come_in_the_order_of_the_calls_however_they_end():
    threads = EnvironmentThreads(4, timeout_s=30)
    for owner, seconds in (("a", 0.15), ("b", 0.0), ("c", 0.08), ("d", 0.0)):
        threads.start(owner, lambda s=seconds, o=owner: time.sleep(s) or o.upper())
    outcomes = collect_all(threads)
    assert [(o.owner, o.value, o.failure) for o in outcomes] == [(x, x.upper(), None) for x in "abcd"]


def test_what_a_call_raises_becomes_its_outcome():
    def leave():
        sys.exit(3)

    threads = EnvironmentThreads(2, timeout_s=30)
    threads.start("divide", lambda: 1 / 0)
    threads.start("leave", leave)
    threads.start("fine", lambda: 1)
    outcomes = collect_all(threads)
    assert [o.failure for o in outcomes] == [
        ("environment_error", "ZeroDivisionError: division by zero"),
        ("environment_error", "SystemExit: 3"),
        None,
    ]
    threads.start("later", lambda: 2)
    assert collect_all(threads)[0].value == 2, "the threads live on"


def test_broken_configuration_stops_the_wait():
    def broken():
        raise ConfigError("environment.kwargs.path", "must be a file", "x", "Give one.")

    threads = EnvironmentThreads(1, timeout_s=30)
    threads.start("a", broken)
    with pytest.raises(ConfigError, match="must be a file"):
        collect_all(threads)


def test_timeout_ends_the_late_call_only_and_queued_calls_go_on():
    hang = threading.Event()
    threads = EnvironmentThreads(1, timeout_s=0.2)  # one thread: everything is queued behind the call that hangs
    threads.start("hangs", hang.wait)
    for owner in range(3):
        threads.start(owner, lambda o=owner: o * 10)
    with takes_less_than(20):
        outcomes = collect_all(threads)
    assert [o.owner for o in outcomes] == ["hangs", 0, 1, 2]
    status, message = outcomes[0].failure
    assert status == "timed_out"
    assert "rollout.step_timeout_s = 0.2 s" in message
    assert [o.value for o in outcomes[1:]] == [0, 10, 20]
    hang.set()
    threads.start("after", lambda: 7)
    assert [o.value for o in collect_all(threads)] == [7], "the late call's value does not turn up"


def test_time_in_the_queue_does_not_count():
    threads = EnvironmentThreads(1, timeout_s=0.6)
    for owner in range(4):  # 0.8 s in all, 0.2 s each
        threads.start(owner, lambda: time.sleep(0.2))
    outcomes = collect_all(threads)
    assert [o.failure for o in outcomes] == [None] * 4


def test_without_waiting_only_what_is_over_comes():
    hang = threading.Event()
    threads = EnvironmentThreads(2, timeout_s=30)
    threads.start("hangs", hang.wait)
    threads.start("quick", lambda: 1)
    assert [o.owner for o in threads.collect(patience_s=0, wait_for_one=True)] == ["quick"]
    assert threads.collect(patience_s=0, wait_for_one=False) == []
    hang.set()
    assert [o.owner for o in collect_all(threads)] == ["hangs"]


def test_calls_that_compute_are_waited_for_and_those_that_wait_are_not():
    def compute():
        sum(range(20_000))

    threads = EnvironmentThreads(8, timeout_s=30)
    for owner in range(200):
        threads.start(owner, compute)
    assert len(collect_all(threads)) == 200
    for owner in range(20):
        threads.start(owner, compute)
    assert len(threads.collect(patience_s=20, wait_for_one=False)) == 20

    waiting, hang = EnvironmentThreads(8, timeout_s=30), threading.Event()
    for owner in range(20):
        waiting.start(owner, lambda: time.sleep(0.01))
    assert len(collect_all(waiting)) == 20
    waiting.start("slow", hang.wait)
    with takes_less_than(10):
        assert waiting.collect(patience_s=20, wait_for_one=False) == []
    hang.set()
    assert len(waiting.collect(patience_s=20, wait_for_one=True)) == 1


def test_deadline_ends_the_wait_before_the_calls_do():
    hang = threading.Event()
    threads = EnvironmentThreads(2, timeout_s=60)
    threads.start("hangs", hang.wait)
    with takes_less_than(20):
        assert threads.collect(patience_s=math.inf, wait_for_one=True, deadline=time.monotonic() + 0.1) == []
    hang.set()


def test_forgotten_calls_neither_run_nor_return():
    hang, ran = threading.Event(), []
    threads = EnvironmentThreads(1, timeout_s=30)
    threads.start("hangs", hang.wait)
    threads.start("queued", lambda: ran.append(1))
    while next(iter(threads._calls.values())).started is None:
        time.sleep(0.001)
    threads.forget()
    threads.start("next", lambda: 5)
    assert [(o.owner, o.value) for o in collect_all(threads)] == [("next", 5)]
    hang.set()
    assert not ran


def test_a_hanging_environment_does_not_keep_the_process_from_ending():
    program = (
        "import threading\nfrom orchestrator.environment_threads import EnvironmentThreads\n"
        "threads = EnvironmentThreads(1, timeout_s=0.2)\n"
        "threads.start('a', threading.Event().wait)\n"
        "print(threads.collect(patience_s=float('inf'), wait_for_one=True)[0].failure[0])\n"
        "threads.close()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "timed_out", result.stderr


def test_the_traceback_of_an_environment_is_logged_once(caplog):
    def broken():
        return {}["missing"]

    threads = EnvironmentThreads(2, timeout_s=30)
    for owner in range(5):
        threads.start(owner, broken)
    assert len(collect_all(threads)) == 5
    assert caplog.text.count("in broken") == 1
    assert "KeyError: 'missing'" in caplog.text


def learn(threads, kind, call, count=12):
    for owner in range(count):
        threads.start(owner, call, kind)
    collect_all(threads)


def test_calls_that_wait_get_a_thread_each_and_those_that_compute_do_not():
    now, most, lock = 0, 0, threading.Lock()

    def call(seconds):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if seconds:
            time.sleep(seconds)
        else:
            sum(range(50_000))
        with lock:
            now -= 1

    threads = EnvironmentThreads(100, timeout_s=30)
    learn(threads, "waits", lambda: call(0.02))
    learn(threads, "computes", lambda: call(0))
    for kind, seconds, count in (("computes", 0, 64), ("waits", 0.3, 64)):
        most = 0
        for owner in range(count):
            threads.start(owner, lambda s=seconds: call(s), kind)
        begun = time.monotonic()
        collect_all(threads)
        if kind == "waits":
            assert 20 < most <= 64, "far more than 8 at a time"
            assert time.monotonic() - begun < 0.3 * 64 / 8, "it takes less than with 8 threads"
        else:
            assert most <= 8


def test_quick_calls_share_a_thread_and_do_not_wait_for_one_that_turns_out_slow():
    threads = EnvironmentThreads(16, timeout_s=30)
    learn(threads, "quick", threading.get_ident)
    for owner in range(64):
        threads.start(owner, threading.get_ident, "quick")
    assert len({o.value for o in collect_all(threads)}) == 1
    slow = threading.Event()
    threads.start("slow", slow.wait, "quick")
    for owner in range(64):
        threads.start(owner, threading.get_ident, "quick")
    owners = set()
    with takes_less_than(10):
        while len(owners) < 64:
            owners |= {o.owner for o in threads.collect(patience_s=0, wait_for_one=True)}
    assert "slow" not in owners
    slow.set()
    assert [(o.owner, o.value) for o in collect_all(threads)] == [("slow", True)]


def test_calls_queued_before_it_is_known_that_they_wait_are_not_kept_behind_each_other():
    threads = EnvironmentThreads(64, timeout_s=30)
    begun = time.monotonic()
    for owner in range(64):
        threads.start(owner, lambda: time.sleep(0.3))
    outcomes = []
    while len(outcomes) < 64:
        outcomes += threads.collect(patience_s=0, wait_for_one=True)
    assert time.monotonic() - begun < 1.6, "2.4 s with 8 threads, 0.6 s when the first 8 have shown it"
    assert sorted(o.owner for o in outcomes) == list(range(64))


def test_the_number_of_threads_is_bounded():
    before = threading.active_count()
    threads = EnvironmentThreads(20, timeout_s=30)
    learn(threads, "waits", lambda: time.sleep(0.01))
    for owner in range(60):
        threads.start(owner, lambda: time.sleep(0.05), "waits")
    assert threading.active_count() - before == 20
    assert len(collect_all(threads)) == 60
    threads.close()


def test_a_dropped_call_does_not_return_and_its_thread_is_replaced():
    hang = threading.Event()
    threads = EnvironmentThreads(1, timeout_s=30)
    threads.start("dropped", hang.wait)
    threads.start("queued and dropped", hang.wait)
    threads.start("kept", lambda: 3)
    time.sleep(0.05)
    threads.drop("dropped")
    threads.drop("queued and dropped")
    threads.drop("unknown")
    with takes_less_than(10):
        assert [(o.owner, o.value) for o in collect_all(threads)] == [("kept", 3)]
    hang.set()


def test_a_process_that_fails_tells_its_status_and_is_logged_once_per_place(caplog):
    def fail(place):
        error = EnvironmentFailure("timed_out", "it was late", place)
        error.add_note("what it said")
        raise error

    threads = EnvironmentThreads(2, timeout_s=30)
    for place in ("here", "here", "there"):
        threads.start(place, lambda p=place: fail(p))
    assert [o.failure for o in collect_all(threads)] == [("timed_out", "it was late")] * 3
    assert caplog.text.count("what it said") == 2
