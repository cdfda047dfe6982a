import pickle
import socket
from pathlib import Path

import pytest

from configs.environment import WrapperConfig
from configs.errors import ConfigError
from configs.loader import load, parse_override, to_yaml
from configs.rollout import RolloutConfig

SHIPPED = sorted(Path("configs").glob("*.yaml"))
BESIDE = {"math_toy_zero2": ["math_toy.yaml"], "retail_user_model": ["retail_qwen2_1.5b.yaml"]}
"""Files that say only what is different -> those before them on the command line."""
GIVEN = ["model.base=b", "model.sft=s", "environment.id=rejuvenate/Arithmetic-v0"]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_file_loads(file):
    load([*(Path("configs") / below for below in BESIDE.get(file.stem, ())), file])


def test_files_merge_left_to_right_and_overrides_come_last(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\nlearner: {lr: 0.1, threads: 3}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\nlearner: {lr: 0.2}\n")
    config = load([tmp_path / "a.yaml", tmp_path / "b.yaml"], [*GIVEN, "learner.lr=0.3"])
    assert (config.seed, config.learner.lr, config.learner.threads) == (2, 0.3, 3)


@pytest.mark.parametrize(
    "field",
    [
        *("rollout.step_timeout_s", "rollout.episode_timeout_s", "rollout.timeout_s", "rollout.start_timeout_s"),
        *("learner.timeout_s", "learner.start_timeout_s", "user_model.start_timeout_s"),
        *("cluster.placement_timeout_s", "rejuvenation.timeout_s"),
    ],
)
def test_every_wait_has_an_end(field):
    given = [*GIVEN, "user_model.checkpoint=m"] if field.startswith("user_model") else GIVEN
    with pytest.raises(ConfigError, match=f"^{field} must be <= 1000000, got inf. Every wait ends: set it to"):
        load([], [*given, f"{field}=inf"])


def test_a_limit_is_one_that_sockets_can_take():
    for value in (2147484.0, float("nan"), 0.0):
        with pytest.raises(ConfigError, match=r"^rollout\.step_timeout_s must be "):
            RolloutConfig(step_timeout_s=value)
    with socket.socket() as connection:
        connection.settimeout(RolloutConfig(step_timeout_s=1e6).step_timeout_s)


def test_another_environment_does_not_inherit_keyword_arguments():
    config = load(["configs/math_toy.yaml"], ["environment.id=my_env:UnitConverter"])
    assert config.environment.kwargs == {}
    for overrides in (
        ["environment.kwargs.x=4", "environment.id=my_env:E"],
        ["environment.id=my_env:E", "environment.kwargs.x=4"],
    ):
        assert load(["configs/math_toy.yaml"], overrides).environment.kwargs == {"x": 4}
    config = load(["configs/math_toy.yaml"], ["environment.id=rejuvenate/Arithmetic-v0", "environment.kwargs.seed=4"])
    assert config.environment.kwargs == {"operations_min": 4, "operations_max": 4, "operand_max": 50, "seed": 4}


def test_resolved_yaml_loads_to_an_equal_config(tmp_path):
    config = load(["configs/math_toy.yaml"], ["seed=7", "learner.lr=3e-5"])
    (tmp_path / "resolved.yaml").write_text(to_yaml(config))
    assert load([tmp_path / "resolved.yaml"]) == config


def test_exponent_without_a_point_is_a_number():
    assert parse_override("learner.lr=1e-6") == {"learner": {"lr": 1e-6}}


def test_config_is_frozen():
    config = load([], GIVEN)
    with pytest.raises(AttributeError):
        config.seed = 3  # type: ignore[misc]


def test_error_pickles():
    error = pickle.loads(pickle.dumps(ConfigError("a.b", "must be > 0", -1, "Set it above 0.")))
    assert str(error) == "a.b must be > 0, got -1. Set it above 0."


def test_lists_of_sections_are_checked():
    with pytest.raises(
        ConfigError, match=r"evaluation\.sets\[0\]\.task .* Did you mean evaluation\.sets\[0\]\.tasks\?"
    ):
        load([], [*GIVEN, "evaluation.sets=[{name: a, task: 3}]"])
    with pytest.raises(ConfigError, match=r"^evaluation\.sets\[1\]\.tasks must be of type integer, got 'many'\."):
        load([], [*GIVEN, "evaluation.sets=[{name: many, tasks: 3}, {name: b, tasks: many}]"])


def test_wrappers_of_the_environment_are_read_from_an_override():
    wrapper = "{id: gymnasium.wrappers:TimeLimit, kwargs: {max_episode_steps: 4}}"
    config = load(["configs/math_toy.yaml"], [f"environment.wrappers=[{wrapper}]"])
    assert config.environment.wrappers == [WrapperConfig("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 4})]


def test_a_layer_replaces_keyword_arguments_of_another_kind(tmp_path):
    (tmp_path / "a.yaml").write_text("environment: {kwargs: {tools: [a], user: {name: b, limit: 3}, seed: 1}}\n")
    overrides = ["environment.kwargs.tools.search=true", "environment.kwargs.user.limit=4"]
    config = load(["configs/math_toy.yaml", tmp_path / "a.yaml"], overrides)
    assert config.environment.kwargs["tools"] == {"search": True}
    assert config.environment.kwargs["user"] == {"name": "b", "limit": 4}, "mappings are merged"
    config = load(["configs/math_toy.yaml", tmp_path / "a.yaml"], ["environment.kwargs.user=[1]"])
    assert (config.environment.kwargs["user"], config.environment.kwargs["seed"]) == ([1], 1)


def test_one_value_may_stand_for_another(tmp_path):
    (tmp_path / "a.yaml").write_text("evaluation: {sets: [{name: a, kwargs: '${environment.kwargs}'}]}\n")
    config = load(["configs/math_toy.yaml", tmp_path / "a.yaml"], ["model.sft=${model.base}"])
    assert config.evaluation.sets[0].kwargs == config.environment.kwargs != {}
    assert config.model.sft == config.model.base


def test_value_still_to_be_given_leaves_the_one_below_it(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {base: '???'}\nsft: {save_steps: [1]}\n")
    config = load(["configs/math_toy.yaml", tmp_path / "a.yaml"])
    assert config.model.base == load(["configs/math_toy.yaml"]).model.base
    assert load(["configs/math_toy.yaml", tmp_path / "a.yaml"], ["sft.save_steps=null"]).sft.save_steps is None
