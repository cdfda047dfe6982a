import json

import pytest

from orchestrator.checkpoints import RunState, latest, manifest, save, verify
from tests.orchestrator.fakes import FakeLearners


def write(run_dir, step, keep=5, learners=None):
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    return save(learners or FakeLearners(), run_dir, RunState(step, step + 1), {}, keep)


def test_checkpoint_holds_learner_policy_state_and_manifest_and_verifies(tmp_path):
    path = write(tmp_path, 20)
    assert path == tmp_path / "checkpoints" / "step_000020"
    names = {"learner/rank_0.pt", "policy/model.safetensors", "state.json"}
    assert set(json.loads((path / "manifest.json").read_text())) == names
    assert verify(path) == RunState(step=20, policy_version=21)
    assert latest(tmp_path) == path


def change_a_byte(path):
    (path / "learner" / "rank_0.pt").write_bytes(b"weightz")


def remove_a_file(path):
    (path / "policy" / "model.safetensors").unlink()


def add_a_file(path):
    (path / "learner" / "manifest.json").write_text("only the manifest at the top is left out")


def change_the_state(path):
    (path / "state.json").write_text('{"step": 30, "policy_version": 21}')


def remove_the_manifest(path):
    (path / "manifest.json").unlink()


def cut_the_manifest(path):
    (path / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (change_a_byte, "learner/rank_0.pt"),
        (remove_a_file, "policy/model.safetensors"),
        (add_a_file, "learner/manifest.json"),
        (change_the_state, "state.json"),
        (remove_the_manifest, ""),
        (cut_the_manifest, ""),
    ],
)
def test_damaged_checkpoint_is_refused(damage, named, tmp_path):
    path = write(tmp_path, 20)
    damage(path)
    with pytest.raises(RuntimeError, match=f"does not match its manifest at {named}.*Remove this checkpoint"):
        verify(path)


def test_newest_checkpoints_are_kept(tmp_path):
    for step in (9, 10, 999_999, 1_000_000):
        write(tmp_path, step, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_1000000", "step_999999"]
    assert latest(tmp_path).name == "step_1000000"


def test_partial_checkpoint_is_passed_over_and_replaced(tmp_path):
    complete = write(tmp_path, 10)
    partial = tmp_path / "checkpoints" / ".step_000020.partial"
    (partial / "learner").mkdir(parents=True)
    (partial / "learner" / "left_over.pt").write_bytes(b"x")
    assert latest(tmp_path) == complete
    assert verify(write(tmp_path, 20)) == RunState(20, 21)
    assert not (tmp_path / "checkpoints" / "step_000020" / "learner" / "left_over.pt").exists()
    assert not partial.exists()


class FailingLearners(FakeLearners):
    def export(self, directory, files):
        raise RuntimeError("disk full")


def test_failed_save_leaves_the_checkpoints_as_they_were(tmp_path):
    complete = write(tmp_path, 10, keep=1)
    with pytest.raises(RuntimeError, match="disk full"):
        write(tmp_path, 20, keep=1, learners=FailingLearners())
    assert latest(tmp_path) == complete
    assert verify(complete).step == 10


def test_saving_a_step_again_replaces_it(tmp_path):
    write(tmp_path, 10)
    learners = FakeLearners()
    learners.content = b"other weights"
    path = write(tmp_path, 10, learners=learners)
    assert (path / "learner" / "rank_0.pt").read_bytes() == b"other weights"
    assert verify(path).step == 10


def test_run_without_checkpoints_has_no_latest(tmp_path):
    assert latest(tmp_path) is None


def test_manifest_tells_apart_files_of_equal_content(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    found = manifest(tmp_path)
    assert list(found) == ["a", "b"]
    assert found["a"] == found["b"]
    assert len(found["a"]) == 32
