import threading

import numpy as np

from orchestrator.trajectories import read, write
from policies.trajectory import Trajectory, TurnRecord


def test_trajectories_read_back_as_they_were_written(tmp_path):
    (tmp_path / "trajectories").mkdir()
    first = Trajectory(
        0, 1, {"n": 3}, reward=0.5, metrics={"calls": 2.0}, messages=[{"role": "user", "content": "ü\u2028"}]
    )
    first.add_environment_tokens([1, 2])
    first.add_turn(TurnRecord([1, 2], [3, 4], [-0.1, -0.2], "stop", 7))
    second = Trajectory(1, 0, {}, status="timed_out", error="late")
    write([first, second], tmp_path, 12)
    assert list(read(tmp_path, 12)) == [first, second]
    assert [p.name for p in (tmp_path / "trajectories").iterdir()] == ["step_000012.jsonl"]


def test_values_that_json_does_not_know_do_not_end_the_run(tmp_path):
    (tmp_path / "trajectories").mkdir()
    turn = TurnRecord([1], [2], [-0.5], "stop", 0)
    common = {"a": np.int64(3), "b": np.array([[1.5, 2.5]]), "c": {1}, "d": 1 + 2j}
    copied = Trajectory(0, 0, dict(common), reward=np.float32(0.5), turns=[turn])
    not_copied = Trajectory(0, 1, common | {(1, 2): None, "lock": threading.Lock()}, turns=[turn])
    write([copied, not_copied], tmp_path, 1)
    first, second = read(tmp_path, 1)
    plain = {"a": 3, "b": [[1.5, 2.5]], "c": [1], "d": "(1+2j)"}
    assert (first.task, first.reward, first.turns) == (plain, 0.5, [turn])
    assert second.task.pop("lock").startswith("<unlocked _thread.lock")
    assert second.task == plain | {"(1, 2)": None}
    assert second.turns == [turn]
