from dataclasses import replace

import pytest

from configs.errors import ConfigError
from configs.loader import load
from orchestrator.running import open_run
from tests.orchestrator.fakes import run_config


def longer(config, steps):
    return replace(config, resume=True, algorithm=replace(config.algorithm, steps=steps))


def test_run_that_is_made_longer_says_so_in_its_configuration(tmp_path):
    config = run_config("algorithm.steps=3", "seed=5")
    open_run(config, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    before = file.read_text()
    open_run(longer(config, 3), tmp_path / "run")
    assert file.read_text() == before
    open_run(longer(config, 7), tmp_path / "run")
    assert load([file]) == replace(config, algorithm=replace(config.algorithm, steps=7))


@pytest.mark.parametrize("change", [{"seed": 6}, {"algorithm": 2}])
def test_resumed_run_must_be_the_same_but_for_its_length(tmp_path, change):
    config = run_config("algorithm.steps=3", "seed=5")
    open_run(config, tmp_path / "run")
    other = longer(config, change["algorithm"]) if "algorithm" in change else replace(config, resume=True, **change)
    with pytest.raises(ConfigError, match="must be as in the run that is resumed"):
        open_run(other, tmp_path / "run")
    assert load([tmp_path / "run" / "config.yaml"]) == config


def test_a_run_that_died_of_a_limit_resumes_with_a_larger_one(tmp_path):
    config = run_config("algorithm.steps=3")
    open_run(config, tmp_path / "run")
    larger = replace(config.rollout, timeout_s=3600.0, step_timeout_s=99.0)
    smaller = replace(config.learner, micro_batch_tokens=256)
    open_run(replace(config, resume=True, rollout=larger, learner=smaller), tmp_path / "run")
    other = replace(config, resume=True, rollout=replace(larger, max_tokens=3))
    with pytest.raises(ConfigError) as caught:
        open_run(other, tmp_path / "run")
    assert str(caught.value).startswith("rollout.max_tokens must be as in the run that is resumed ("), "names the field"
