import json
import logging

import pytest

from configs.run import LoggingConfig
from orchestrator.loggers import Loggers, read_metrics, set_aside_after


class FailingLogger:
    def __init__(self):
        self.attempts = 0

    def log(self, step, figures):
        self.attempts += 1
        raise OSError("disk full")

    def close(self):
        pass


def test_failing_logger_warns_once_and_the_others_go_on(tmp_path, caplog):
    loggers = Loggers(LoggingConfig(tensorboard=False), tmp_path)
    failing = FailingLogger()
    loggers._loggers.insert(0, failing)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            loggers.log(step, {"reward": step / 10})
    loggers.close()
    assert [r.getMessage() for r in caplog.records] == ["FailingLogger cannot log: disk full. The run goes on."]
    assert failing.attempts == 3, "it is tried again"
    assert read_metrics(tmp_path) == [{"step": s, "reward": s / 10} for s in (1, 2, 3)]


def test_logger_that_cannot_be_set_up_stops_the_run(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        Loggers(LoggingConfig(tensorboard=False), tmp_path / "missing")


def test_each_line_is_on_disk_at_once(tmp_path):
    loggers = Loggers(LoggingConfig(tensorboard=False), tmp_path)
    loggers.log(1, {"reward": 0.5})
    assert read_metrics(tmp_path) == [{"step": 1, "reward": 0.5}]


def test_lines_after_the_checkpoint_are_set_aside(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": s, "reward": s}) + "\n" for s in range(1, 6)))
    set_aside_after(tmp_path, 3)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    superseded = tmp_path / "superseded" / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in superseded.read_text().splitlines()] == [4, 5]
    set_aside_after(tmp_path, 3)
    assert len(superseded.read_text().splitlines()) == 2, "a second resume sets nothing aside twice"


def test_half_last_line_is_dropped_and_does_not_swallow_the_next(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "reward": 0.1}\n{"step": 2, "rew')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    set_aside_after(tmp_path, 1)
    loggers = Loggers(LoggingConfig(tensorboard=False), tmp_path)
    loggers.log(2, {"reward": 0.2})
    loggers.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    assert not (tmp_path / "superseded" / "metrics.jsonl").exists()


def test_run_without_metrics_has_no_lines(tmp_path):
    assert read_metrics(tmp_path) == []


def test_tensorboard_shows_a_resumed_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Loggers(LoggingConfig(tensorboard=True), tmp_path)
    for step in (1, 2, 3):
        first.log(step, {"reward": float(step)})
    first.close()
    resumed = Loggers(LoggingConfig(tensorboard=True), tmp_path, last_step=2)
    resumed.log(3, {"reward": 30.0})
    resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
