import contextlib
import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console as RichConsole

from configs.errors import ConfigError
from orchestrator import evaluating
from orchestrator.console import Console
from orchestrator.evaluation import read
from policies.trajectory import Trajectory
from tests.orchestrator.fakes import run_config

SETS = (
    "evaluation.sets=[{name: a, tasks: 2}, {name: b, tasks: 2, kwargs: {split: heldout}}, "
    "{name: c, tasks: 2, kwargs: {split: ood}}]"
)


class Engines:
    """Solves everything; what it does on a split is replaced by raising `breaks[split]`."""

    def __init__(self, breaks):
        self.breaks = breaks
        self.closed = False

    def read(self, location):
        return SimpleNamespace(handles=[location])

    def deliver(self, handles, version):
        self.held = (handles, version)

    def generate(self, jobs, environment, sampling):
        error = self.breaks.get(environment.kwargs.get("split"))
        if error is not None:
            raise error
        return [Trajectory(job.group, job.sample, {}, reward=1.0) for job in jobs]


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Evaluate three sets on engines that break as given; returns the engines and what was said."""

    def run(**breaks):
        engines = Engines(breaks)

        @contextlib.contextmanager
        def launch(config, folder, *, learners):
            assert not learners
            try:
                yield engines
            finally:
                engines.closed = True

        monkeypatch.setattr(evaluating, "launch", launch)
        monkeypatch.setattr(evaluating.tempfile, "mkdtemp", lambda prefix: str(_made(tmp_path / "logs-of-it")))
        rich = RichConsole(width=200, record=True, file=io.StringIO())
        try:
            result = evaluating.evaluate_checkpoint(run_config(SETS), Console(rich), tmp_path / "out.json")
        except KeyboardInterrupt:
            result = None
        return result, engines, rich.export_text()

    return run


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def test_results_are_written_with_what_made_them(evaluate, tmp_path):
    result, engines, said = evaluate()
    assert engines.held == (["s"], 0)
    assert read(tmp_path / "out.json") == result
    text = json.loads((tmp_path / "out.json").read_text())
    assert (text["checkpoint"], text["complete"], text["seed"]) == ("s", True, 0)
    assert text["sets"][1]["setting"]["environment"]["kwargs"] == {"split": "heldout"}
    assert text["sets"][0]["greedy"] == [1.0, 1.0]
    assert text["evaluation"]["sets"][2]["name"] == "c"
    assert "evaluated on b" in said
    assert not (tmp_path / "logs-of-it").exists()


def test_engines_that_fail_on_one_set_are_asked_for_the_next(evaluate, tmp_path):
    result, _, said = evaluate(heldout=RuntimeError("8 of 8 episodes were not over\nlong story"))
    assert [s.measured for s in result.sets] == [True, False, True]
    assert result.sets[1].error == "8 of 8 episodes were not over"
    assert json.loads((tmp_path / "out.json").read_text())["complete"], "all sets were tried"
    assert f"logs: {tmp_path}/logs-of-it/logs" in said
    assert (tmp_path / "logs-of-it").exists()


def test_interrupted_evaluation_has_written_the_sets_before(evaluate, tmp_path):
    result, engines, _ = evaluate(ood=KeyboardInterrupt())
    assert result is None
    assert engines.closed
    assert [s.name for s in read(tmp_path / "out.json").sets] == ["a", "b"]
    assert not json.loads((tmp_path / "out.json").read_text())["complete"]
    assert not (tmp_path / "logs-of-it").exists(), "nobody was told to look into it"


def test_logs_stay_only_where_the_message_points_to_them(evaluate, tmp_path):
    folder = tmp_path / "logs-of-it"
    for error in (ConfigError("CHECKPOINT", "must be one", "x", "Give one."), OSError("disk full")):
        with pytest.raises(type(error)):
            evaluate(heldout=error)
        assert not folder.exists()
    with pytest.raises(ConfigError):
        evaluate(
            heldout=ConfigError("CHECKPOINT", f"must be readable ({folder}/logs/worker.log says why)", "x", "Look.")
        )
    assert folder.exists()


def test_engines_that_do_not_start_leave_their_logs(monkeypatch, evaluate, tmp_path):
    monkeypatch.setattr(Engines, "read", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
    with pytest.raises(RuntimeError, match=f"no memory\nlogs: {tmp_path}/logs-of-it/logs"):
        evaluate()
    assert (tmp_path / "logs-of-it").exists()


def test_file_for_results_is_checked_and_its_folder_made(tmp_path):
    evaluating.check_out(tmp_path / "deep" / "er" / "out.json")
    assert (tmp_path / "deep" / "er").is_dir()
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"--out must not exist yet.*add --overwrite"):
        evaluating.check_out(tmp_path / "mine.json")
    evaluating.check_out(tmp_path / "mine.json", overwrite=True)
    with pytest.raises(ConfigError, match="--out must be a file"):
        evaluating.check_out(tmp_path)
