import json
import os
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.loader import load
from orchestrator import run_directory as directory
from tests.orchestrator.fakes import run_config


def test_new_and_empty_directories_are_free(tmp_path):
    directory.check_free(tmp_path, resume=False)
    directory.check_free(tmp_path / "a" / "b", resume=False)


def test_taken_directories_and_files_are_not(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ConfigError, match="run_dir must be new or empty"):
            directory.check_free(path, resume=False)


def test_what_takes_a_run_directory_is_named(tmp_path):
    def refused():
        with pytest.raises(ConfigError) as error:
            directory.check_free(tmp_path / "run", resume=False)
        return str(error.value)

    directory.create(tmp_path / "run", run_config())
    assert "it holds a run without a checkpoint, got" in refused()
    assert refused().endswith("Delete it, or choose another.")
    (tmp_path / "run" / "checkpoints" / "step_000020").mkdir()
    assert "it holds a run, got" in refused()
    assert refused().endswith("continue this run with resume=true.")
    (tmp_path / "run" / "final").mkdir()
    assert "it holds a finished run, got" in refused()
    (tmp_path / "run" / "config.yaml").unlink()
    assert "it holds checkpoints, got" in refused()


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(ConfigError, match="resume needs a run in run_dir"):
        directory.check_free(tmp_path, resume=True)
    (tmp_path / "config.yaml").write_text("")
    directory.check_free(tmp_path, resume=True)


def test_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(ConfigError, match="run_dir must be writable"):
        directory.check_free(tmp_path / "run", resume=False)


def test_run_dir_becomes_absolute_with_the_home_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert directory.resolve_run_dir(run_config("run_dir=~/runs/a")) == tmp_path / "runs" / "a"
    assert directory.resolve_run_dir(run_config("run_dir=runs/a")) == Path.cwd() / "runs" / "a"


def test_under_a_ray_job_only_an_absolute_run_dir_will_do(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert directory.resolve_run_dir(run_config(f"run_dir={tmp_path}")) == tmp_path
    with pytest.raises(ConfigError, match="absolute path under a Ray job"):
        directory.resolve_run_dir(run_config("run_dir=runs/a"))


def test_created_directory_holds_the_resolved_configuration_and_versions(tmp_path):
    config = run_config("seed=3", "learner.lr=1e-5")
    directory.create(tmp_path / "run", config)
    assert load([tmp_path / "run" / "config.yaml"]) == config
    assert "python" in json.loads((tmp_path / "run" / "versions.json").read_text())


def test_versions_need_no_git(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert directory.versions()["git"] is None


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "state.json"
    directory.write_atomic(file, "old")

    def crash(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        directory.write_atomic(file, "new")
    assert file.read_text() == "old"


def test_actors_that_see_and_write_the_directory_have_no_complaint(tmp_path):
    token = directory.leave_token(tmp_path, "abc")
    assert [directory.probe(tmp_path, token, name) for name in ("learner-0", "rollout-0")] == [None, None]
    assert directory.seen(tmp_path, ["learner-0", "rollout-0"]) == []
    assert list(tmp_path.iterdir()) == [], "the probes are removed"


def test_actor_with_another_directory_is_named(tmp_path):
    assert "learner-0 on node" in directory.probe(tmp_path, "abc", "learner-0")
    (tmp_path / directory.TOKEN_FILE).write_text("another run's")
    assert "sees another directory" in directory.probe(tmp_path, "abc", "learner-0")


def test_probe_that_does_not_arrive_is_said(tmp_path):
    token = directory.leave_token(tmp_path, "abc")
    directory.probe(tmp_path, token, "learner-0")
    (complaint,) = directory.seen(tmp_path, ["learner-0", "rollout-0"])
    assert complaint.startswith("What rollout-0 writes")


def test_evaluations_and_trajectories_after_the_checkpoint_are_set_aside_and_nothing_is_lost(tmp_path):
    directory.create(tmp_path, run_config())

    def write(content):
        for step in (0, 2, 3):
            (tmp_path / "evaluations" / f"step_{step:06d}.json").write_text(content)
            (tmp_path / "trajectories" / f"step_{step:06d}.jsonl").write_text(content)

    for content in ("first", "second", "third"):
        write(content)
        directory.set_aside_after(tmp_path, 2)
    for folder, suffix in (("evaluations", "json"), ("trajectories", "jsonl")):
        kept = sorted(file.name for file in (tmp_path / folder).iterdir())
        assert kept == [f"step_000000.{suffix}", f"step_000002.{suffix}"]
        aside = {file.name: file.read_text() for file in (tmp_path / "superseded" / folder).iterdir()}
        assert aside == {
            f"step_000003.{suffix}": "first",
            f"step_000003.2.{suffix}": "second",
            f"step_000003.3.{suffix}": "third",
        }


def test_the_final_policy_of_a_run_that_is_made_longer_is_kept(tmp_path):
    directory.create(tmp_path, run_config())
    for content in ("first", "second"):
        (tmp_path / "final").mkdir()
        (tmp_path / "final" / "model.safetensors").write_text(content)
        directory.set_aside_after(tmp_path, 2)
    assert not (tmp_path / "final").exists()
    kept = [tmp_path / "superseded" / name / "model.safetensors" for name in ("final", "final.2")]
    assert [file.read_text() for file in kept] == ["first", "second"]
