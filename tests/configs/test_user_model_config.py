import json

import pytest

from configs.checkpoint import check_user_model, has_chat_template
from configs.errors import ConfigError
from configs.loader import load, to_yaml
from configs.user_model import UserModelConfig

GIVEN = ["model.base=b", "model.sft=s", "environment.id=rejuvenate/Arithmetic-v0"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"device": "gpu"}, "user_model.device must be one of cpu, cuda, got 'gpu'"),
        ({"dtype": "int8"}, "user_model.dtype must be one of"),
        ({"threads": 0}, "user_model.threads must be >= 1"),
        ({"max_num_seqs": 0}, "user_model.max_num_seqs must be >= 1"),
        ({"tensor_parallel": 2}, "user_model.tensor_parallel must be 1 where user_model.device is cpu, got 2"),
        ({"max_model_len": 1}, "user_model.max_model_len must be >= 2"),
        ({"kv_cache_bytes": 1000}, "user_model.kv_cache_bytes must be >= 1048576"),
        ({"cpus": 0}, "user_model.cpus must be > 0"),
        ({"start_timeout_s": 0}, "user_model.start_timeout_s must be > 0"),
        ({"gpu_memory_utilization": 1.0}, "user_model.gpu_memory_utilization must lie in"),
    ],
)
def test_bounds_are_named(setting, message):
    with pytest.raises(ConfigError) as raised:
        UserModelConfig(checkpoint="org/name", **setting)
    assert str(raised.value).startswith(message)


def test_no_model_is_served_unless_the_section_is_there(tmp_path):
    assert load([], GIVEN).user_model is None
    config = load([], [*GIVEN, "user_model.checkpoint=org/name", "user_model.device=cuda"])
    assert config.user_model == UserModelConfig("org/name", "cuda")
    (tmp_path / "resolved.yaml").write_text(to_yaml(config))
    assert load([tmp_path / "resolved.yaml"]) == config
    with pytest.raises(ConfigError, match=r"user_model\.checkpoint must be given"):
        load([], [*GIVEN, "user_model.device=cuda"])


def test_a_hub_name_is_left_to_the_server():
    check_user_model(UserModelConfig("org/name"), used=True)
    check_user_model(None, used=False)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("chat_template.jinja", "{{ messages }}", True),
        ("chat_template.json", "{}", True),
        ("tokenizer_config.json", json.dumps({"chat_template": "{{ messages }}"}), True),
        ("tokenizer_config.json", json.dumps({"chat_template": None}), False),
        ("tokenizer_config.json", "{}", False),
        ("tokenizer_config.json", "[]", False),
        ("tokenizer_config.json", "{", False),
        ("config.json", "{}", False),
    ],
)
def test_a_chat_template_is_found_where_transformers_looks(tmp_path, name, content, found):
    (tmp_path / name).write_text(content)
    assert has_chat_template(tmp_path) == found
