import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.learner import LearnerConfig
from orchestrator.learning import LearnerWorker
from orchestrator.parcel import Parcel
from orchestrator.transport import InProcessTransport


class FakeLearner:
    """Says what it was built with."""

    made: list["FakeLearner"]

    def __init__(self, config, model_dir, *, seed):
        self.config, self.model_dir, self.closed = config, Path(model_dir), False
        self.files = {file.name: file.read_bytes() for file in self.model_dir.iterdir()}
        self.made.append(self)

    def load_weights(self, named):
        assert not list(named)

    def close(self):
        self.closed = True


@pytest.fixture
def made(monkeypatch):
    FakeLearner.made = []
    monkeypatch.setitem(sys.modules, "policies.learner", SimpleNamespace(Learner=FakeLearner))
    return FakeLearner.made


def test_learner_is_built_anew_where_the_config_or_the_small_files_differ(made):
    worker = LearnerWorker(0, 1, InProcessTransport(), 1000)
    first, second = {"config.json": b"one"}, {"config.json": b"two"}
    slow = LearnerConfig(lr=1e-6)
    for files, config in ((first, slow), (dict(first), slow), (second, slow), (second, LearnerConfig(lr=1e-5))):
        worker.load(Parcel(files, []), config, seed=0, reference=False, timeout_s=1.0)
    assert [learner.files for learner in made] == [first, second, second], "equal files and config keep the learner"
    assert [learner.config.lr for learner in made] == [1e-6, 1e-6, 1e-5]
    assert [learner.closed for learner in made] == [True, True, False]
    assert [learner.model_dir.exists() for learner in made] == [False, False, True]
    worker.close()
    assert made[-1].closed
    assert not made[-1].model_dir.exists()
