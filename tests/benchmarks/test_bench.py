import json
import multiprocessing
import sys

import pytest

from benchmarks import bench, learner_sides
from benchmarks.bench import Side, row, save
from benchmarks.relay import RelayEnv
from benchmarks.rollout_sides import fault_of
from policies.trajectory import Trajectory, TurnRecord


def test_a_row_compares_the_best_rounds():
    warm_ups = [((100, 0.1), (100, 0.1))] * bench.WARM_UPS  # their times do not count
    found = row("learner", "tiny", [*warm_ups, ((100, 2.0), (100, 0.5)), ((100, 1.0), (100, 4.0))], 0.7)
    assert (found["tokens"], found["ours"], found["bare"], found["ratio"]) == (100, 100.0, 200.0, 0.5)


@pytest.mark.parametrize(
    ("ours", "bare"),
    [([(100, 1.0)], [(101, 1.0)]), ([(100, 1.0), (99, 1.0)], [(100, 1.0), (100, 1.0)])],
)
def test_sides_with_different_numbers_of_tokens_are_refused(ours, bare):
    with pytest.raises(RuntimeError, match=r"rollout, math, tiny: both sides must process the same tokens"):
        row("rollout, math", "tiny", list(zip(ours, bare, strict=True)), 0.8)


class FakeSide:
    asked: list = []  # noqa: RUF012

    def __init__(self, serve, *arguments):
        self.tokens = 100

    def measure(self, what):
        FakeSide.asked.append(what)
        return self.tokens, 1.0

    def close(self):
        pass


def test_every_learner_round_has_the_same_samples(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "make_model", lambda size, folder: folder)
    monkeypatch.setattr(bench, "Side", FakeSide)
    monkeypatch.setattr(FakeSide, "asked", [])
    assert bench.bench_learner("tiny", tmp_path, 1)[0]["ratio"] == 1.0
    assert FakeSide.asked == [learner_sides.SEED] * 2 * (bench.WARM_UPS + bench.ROUNDS)
    assert learner_sides.make_samples(learner_sides.SEED) == learner_sides.make_samples(learner_sides.SEED)


def result(what, size, ratio):
    return {"what": what, "size": size, "tokens": 1, "ours": 4567.0, "bare": 4567.0, "ratio": ratio, "required": 0.7,
            "commit": "fedcbafedcbafedc"}  # fmt: skip


def test_rows_of_an_earlier_run_stay_unless_they_are_measured_again(tmp_path):
    file = tmp_path / "results" / "bench.json"
    save([result("learner", "tiny", 0.5), result("learner", "mid", 0.6)], file)
    save([result("learner", "tiny", 0.9), result("rollout, math", "tiny", 0.8)], file)
    found = {(r["what"], r["size"]): r["ratio"] for r in json.loads(file.read_text())}
    assert found == {("learner", "tiny"): 0.9, ("learner", "mid"): 0.6, ("rollout, math", "tiny"): 0.8}
    table = file.with_suffix(".md").read_text()
    assert "| learner | tiny | 0.90 | 0.70 | fedcbafed |\n| learner | mid | 0.60 | 0.70 | fedcbafed |\n" in table
    assert "4567" not in table


def test_results_are_written_when_a_ratio_is_missed_and_when_a_later_part_fails(tmp_path, monkeypatch):
    def fails(size, folder, threads):
        raise RuntimeError("no engine")

    file = tmp_path / "bench.json"
    monkeypatch.setattr(bench, "BENCHES", {"learner": lambda *_: [result("learner", "tiny", 0.1)], "rollout": fails})
    arguments = ["bench", "--sizes", "tiny", "--output", str(file), "--threads", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(bench, "versions", lambda: {"git": "fedcbafedcbafedc"})
    with pytest.raises(RuntimeError, match="no engine"):
        bench.main()
    assert json.loads(file.read_text()) == [result("learner", "tiny", 0.1) | {"threads": 2}]
    file.unlink()
    monkeypatch.setattr(sys, "argv", [*arguments, "--parts", "learner"])
    with pytest.raises(SystemExit, match="below what is required: learner tiny"):
        bench.main()
    assert file.exists()


def test_results_go_to_the_documentation_unless_told_otherwise():
    assert str(bench.OUTPUT) == "docs/results/bench.json"


def test_what_a_side_sends_as_an_exception_is_raised():
    side = object.__new__(Side)
    side._connection, theirs = multiprocessing.Pipe()
    theirs.send((3, 1.0))
    assert side.measure("math") == (3, 1.0)
    theirs.send(RuntimeError("math: episode 0-0 failed"))
    with pytest.raises(RuntimeError, match="episode 0-0 failed"):
        side.measure("math")


@pytest.mark.parametrize("unread", [False, True])
def test_a_side_whose_process_ended_is_explained(unread):
    side = object.__new__(Side)
    side._connection, theirs = multiprocessing.Pipe()
    if unread:
        side.tell("math")
    theirs.close()
    with pytest.raises(RuntimeError, match=r"a benchmark process ended \(math\)"):
        side._receive("math")


def trajectory(turns, status, error=""):
    record = TurnRecord([1], [2], [0.0], "stop", 0)
    return Trajectory(4, 2, {}, turns=[record] * turns, status=status, error=error)


@pytest.mark.parametrize(
    ("task", "turns", "status", "fault"),
    [
        ("math", 1, "finished", None),
        ("math", 1, "truncated", None),
        ("multi-turn", 3, "finished", None),
        ("multi-turn", 3, "truncated", None),
        ("multi-turn", 1, "truncated", None),
        ("multi-turn", 2, "finished", "multi-turn: episode 4-2 ended as finished after 2 turns, not 3"),
        ("multi-turn", 4, "truncated", "multi-turn: episode 4-2 ended as truncated after 4 turns, not 3"),
        ("math", 2, "finished", "math: episode 4-2 ended as finished after 2 turns, not 1"),
        ("math", 0, "environment_error", "math: episode 4-2 failed as environment_error: broken"),
        ("multi-turn", 3, "timed_out", "multi-turn: episode 4-2 failed as timed_out: broken"),
    ],
)
def test_a_round_with_failed_or_short_episodes_is_no_measurement(task, turns, status, fault):
    rounds = [trajectory(1 if task == "math" else 3, "finished"), trajectory(turns, status, "broken")]
    assert fault_of(task, rounds) == fault


def test_the_relay_takes_three_turns():
    env = RelayEnv()
    env.reset(seed=0)
    assert [env.step("text")[2] for _ in range(3)] == [False, False, True]


def test_what_the_relay_answers_depends_on_what_was_said():
    """Equal answers would be rendered once for all siblings, which is less work than its name says."""
    env = RelayEnv()
    answers = set()
    for text in ("one", "two"):
        env.reset(seed=0)
        answers.add(env.step(text)[0][0]["content"])
    assert len(answers) == 2
