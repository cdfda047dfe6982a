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
