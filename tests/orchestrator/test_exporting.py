import pytest

from configs.errors import ConfigError
from orchestrator.checkpoints import RunState, save
from orchestrator.exporting import export
from tests.orchestrator.fakes import FakeLearners


@pytest.fixture
def run_dir(tmp_path):
    """A run with a checkpoint after step 10 and no final policy yet."""
    path = tmp_path / "run"
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text("")
    save(FakeLearners(), path, RunState(10, 10), {}, keep=2)
    return path


def test_final_policy_is_exported_where_there_is_one(run_dir, tmp_path):
    (run_dir / "final").mkdir()
    (run_dir / "final" / "model.safetensors").write_bytes(b"final")
    assert export(run_dir, tmp_path / "out") == run_dir / "final"
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"final"


def test_else_the_policy_of_the_newest_checkpoint(run_dir, tmp_path):
    source = export(run_dir, tmp_path / "new" / "out")
    assert source == run_dir / "checkpoints" / "step_000010" / "policy"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"], "nothing partial is left"
    assert (tmp_path / "new" / "out" / "model.safetensors").read_bytes() == b"weights"


def test_damaged_checkpoint_is_not_exported(run_dir, tmp_path):
    (run_dir / "checkpoints" / "step_000010" / "policy" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(RuntimeError, match="does not match its manifest"):
        export(run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(run_dir):
    with pytest.raises(ConfigError, match="--output must not exist"):
        export(run_dir, run_dir / "checkpoints")


def test_no_run_or_no_policy_yet_is_said(tmp_path):
    with pytest.raises(ConfigError, match="must be a run directory"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match="must hold a policy"):
        export(tmp_path, tmp_path / "out")
