import json

import pytest

from configs.checkpoint import check_model, check_pair, is_hub_name, read_config, shape_of
from configs.errors import ConfigError
from configs.model import ModelConfig, ShapeConfig

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
    "tie_word_embeddings": True,
}
SHAPE = ShapeConfig(64, 3, 4, 2, 128, 100, True)


def checkpoint(path, **changes):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG | changes))
    (path / "model.safetensors").write_bytes(b"")
    return str(path)


def test_organisation_and_name_is_a_hub_name_unless_it_is_a_path(tmp_path, monkeypatch):
    assert is_hub_name("Qwen/Qwen2.5-0.5B")
    for path in ("Qwen", "./Qwen/x", "/Qwen/x", "a/b/c", "~/models", "../x"):
        assert not is_hub_name(path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen").mkdir()
    (tmp_path / "Qwen" / "local").mkdir()
    assert not is_hub_name("Qwen/local")
    assert not is_hub_name("Qwen/lcoal"), "a typo beside a folder of one's own"


def test_shape_of_a_config():
    assert shape_of(CONFIG) == SHAPE


def test_config_without_key_value_heads_has_as_many_as_heads():
    assert shape_of(CONFIG | {"num_key_value_heads": None}).num_kv_heads == 4
    assert shape_of({k: v for k, v in CONFIG.items() if k != "num_key_value_heads"}).num_kv_heads == 4


def test_config_without_tying_has_its_own_lm_head():
    assert not shape_of({k: v for k, v in CONFIG.items() if k != "tie_word_embeddings"}).tied_embeddings


@pytest.mark.parametrize("key", [k for k in CONFIG if k not in ("vocab_size", "tie_word_embeddings")])
def test_pair_that_differs_is_refused_with_both_values(key):
    other = ["LlamaForCausalLM"] if key == "architectures" else CONFIG[key] + 1
    with pytest.raises(ConfigError) as caught:
        check_pair(CONFIG, CONFIG | {key: other})
    assert f"must match model.base in {key} ({CONFIG[key]!r}), got {other!r}" in str(caught.value)


def test_pair_may_differ_in_vocabulary():
    check_pair(CONFIG, CONFIG | {"vocab_size": 101})


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        (None, "must be an existing directory"),
        ({}, "must hold a config.json"),
        ({"config.json": "{"}, "must hold a readable config.json"),
        ({"config.json": "[]"}, "names architectures"),
        ({"config.json": "{}"}, "names architectures"),
        ({"config.json": json.dumps(CONFIG), "pytorch_model.bin": ""}, r"weights as \*\.safetensors"),
    ],
)
def test_directory_that_is_no_checkpoint_is_refused(files, rule, tmp_path):
    path = tmp_path / "checkpoint"
    if files is not None:
        path.mkdir()
        for name, text in files.items():
            (path / name).write_text(text)
    with pytest.raises(ConfigError, match=rule):
        read_config("model.base", str(path))


def test_file_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(ConfigError, match="must be a directory"):
        read_config("model.sft", str(tmp_path / "model.safetensors"))


def test_model_with_both_checkpoints_here_has_their_shape(tmp_path):
    model = ModelConfig(checkpoint(tmp_path / "base"), checkpoint(tmp_path / "sft"))
    assert check_model(model) == SHAPE
    with pytest.raises(ConfigError, match=r"must match model\.base in num_hidden_layers"):
        check_model(ModelConfig(model.base, checkpoint(tmp_path / "deeper", num_hidden_layers=4)))


def test_model_with_hub_names_needs_a_shape():
    with pytest.raises(ConfigError, match=r"model\.shape must be given"):
        check_model(ModelConfig("a/base", "a/sft"))
    assert check_model(ModelConfig("a/base", "a/sft", shape=SHAPE)) == SHAPE


def test_one_checkpoint_here_is_enough_for_the_shape(tmp_path):
    assert check_model(ModelConfig("a/base", checkpoint(tmp_path / "sft"))) == SHAPE
