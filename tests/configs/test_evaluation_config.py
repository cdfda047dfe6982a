import pytest

from configs.environment import EvaluationConfig, EvaluationSetConfig
from configs.errors import ConfigError
from configs.loader import load, to_yaml

GIVEN = ["model.base=b", "model.sft=s", "environment.id=rejuvenate/Arithmetic-v0"]


def test_k_of_a_set_is_held_against_its_own_samples_or_the_section_s():
    EvaluationConfig(samples=2, k=2, sets=[EvaluationSetConfig("a", samples=16, k=16), EvaluationSetConfig("b", k=1)])
    for task_set, value in ((EvaluationSetConfig("a", samples=4), "8"), (EvaluationSetConfig("a", k=9), "9")):
        with pytest.raises(ConfigError, match=rf"^evaluation\.sets\.a\.k must be at most .*, got {value}\."):
            EvaluationConfig(samples=8, k=8, sets=[task_set])


@pytest.mark.parametrize("name", ["", " ood", "ood ", "a/b", "two\nlines", "n" * 41])
def test_name_that_makes_no_metric_is_refused(name):
    with pytest.raises(ConfigError, match=r"^evaluation\.sets\.name must be 1 to 40 characters"):
        EvaluationSetConfig(name)


def test_set_with_everything_of_its_own_is_read_and_written_again(tmp_path):
    text = (
        "evaluation:\n  sets:\n"
        "    - {name: tool, kind: ood, environment: rejuvenate/Lookup-v0, kwargs: {hops_max: 2}, tasks: 3,\n"
        "       samples: 4, k: 2, temperature: 0.5, max_tokens: 9, wrappers: [{id: 'gymnasium.wrappers:TimeLimit',\n"
        "       kwargs: {max_episode_steps: 2}}]}\n"
    )
    (tmp_path / "suite.yaml").write_text(text)
    config = load([tmp_path / "suite.yaml"], GIVEN)
    (only,) = config.evaluation.sets
    assert (only.environment, only.samples, only.k, only.temperature) == ("rejuvenate/Lookup-v0", 4, 2, 0.5)
    assert only.wrappers[0].kwargs == {"max_episode_steps": 2}
    (tmp_path / "resolved.yaml").write_text(to_yaml(config))
    assert load([tmp_path / "resolved.yaml"]) == config


def test_suite_laid_over_a_run_takes_the_place_of_its_sets_and_keeps_its_rhythm():
    alone = load(["configs/math_toy.yaml"])
    config = load(["configs/math_toy.yaml", "configs/suites/math_toy.yaml"])
    assert [s.name for s in alone.evaluation.sets] == ["heldout", "ood"]
    assert [s.name for s in config.evaluation.sets][:2] == ["heldout", "shorter"]
    assert config.evaluation.every_steps == alone.evaluation.every_steps == 10
    assert config.environment == alone.environment
