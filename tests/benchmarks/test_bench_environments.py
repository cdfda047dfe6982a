import json
import time

import pytest

from benchmarks.bench import WARM_UPS
from benchmarks.environments import REQUIRED, check, result, rollout_config, save
from benchmarks.waiting import CALLS, WaitingEnv
from policies.trajectory import Trajectory, TurnRecord


def rounds(*pairs, **changes):
    """Slow warm-ups, then rounds of (seconds without waits, seconds with them)."""
    found = []
    for pair in [(99.0, 1.0)] * WARM_UPS + list(pairs):
        found.append(tuple({"tokens": 70, "calls": 9, "seconds": seconds} for seconds in pair))
    found[-1][1].update(changes)
    return found


def test_the_best_round_of_each_side_after_the_warm_ups_counts():
    found = result(rounds((5.0, 4.6), (4.0, 5.0), (4.5, 4.4)))
    assert found == {"tokens": 70, "calls": 9, "without_s": 4.0, "waiting_s": 4.4, "added": pytest.approx(0.1)}
    assert REQUIRED == 0.10


@pytest.mark.parametrize("changes", [{"tokens": 71}, {"calls": 8}])
def test_rounds_that_did_other_work_are_no_measurement(changes):
    with pytest.raises(RuntimeError, match="must have the same tokens and calls"):
        result(rounds((4.0, 4.1), (4.0, 4.1), **changes))


def trajectory(turns=CALLS + 1, calls=None, waited=9.0, status="finished"):
    record = TurnRecord([1], [2], [0.0], "stop", 0)
    metrics = {"waits": float(min(turns, CALLS) if calls is None else calls), "waited_s": waited}
    return Trajectory(4, 0, {}, turns=[record] * turns, status=status, error="why", metrics=metrics)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"status": "timed_out"}, "episode 4 failed as timed_out: why"),
        ({"calls": CALLS - 1}, r"episode 4 had 3 calls in 5 turns"),
        ({"waited": 0.05 * CALLS - 0.01}, r"episode 4 waited 0\.190 s"),
        ({"turns": CALLS + 2}, r"episode 4 had 4 calls in 6 turns"),
    ],
)
def test_a_round_with_an_episode_that_failed_or_did_not_wait_is_no_measurement(wrong, said):
    check([trajectory(), trajectory(turns=2, status="truncated")], 0.05)
    with pytest.raises(RuntimeError, match=said):
        check([trajectory(), trajectory(**wrong)], 0.05)


def test_episodes_that_mostly_end_at_once_are_no_measurement():
    with pytest.raises(RuntimeError, match="before their third turn"):
        check([trajectory(turns=1, status="truncated")] * 9 + [trajectory()], 0.05)


def test_every_call_of_the_environment_waits_and_the_last_turn_does_not():
    env = WaitingEnv(wait_s=0.02)
    env.reset(seed=0)
    for turn in range(CALLS + 1):
        begun = time.perf_counter()
        _, _, terminated, truncated, info = env.step("text")
        waited = time.perf_counter() - begun
        last = turn == CALLS
        assert (terminated, truncated, info["metrics"]["waits"]) == (last, False, 0.0 if last else 1.0)
        assert last or waited >= 0.02


def test_the_result_is_written_as_json_and_as_a_table(tmp_path):
    row = {"episodes": 512, "calls": 2000, "tokens": 50_000, "without_s": 4.0, "waiting_s": 4.1, "added": 0.025}
    save(row | {"commit": "fedcbafedcbafedc-dirty"}, tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["added"] == 0.025
    line = "| 512 | 2000 | 50,000 | 4.00 s | 4.10 s | 2.5% | less than 10% | fedcbafed-dirty |\n"
    assert (tmp_path / "bench.md").read_text().endswith(line)


def test_the_benchmark_takes_the_default_number_of_threads():
    assert rollout_config(1).env_threads == 512
