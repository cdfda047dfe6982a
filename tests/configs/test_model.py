from dataclasses import replace

import pytest

from configs.errors import ConfigError
from configs.model import ModelConfig, ShapeConfig

SHAPE = ShapeConfig(8, 2, 4, 2, 16, 10, tied_embeddings=True)


def test_parameters_of_a_worked_shape():
    # per layer: q 8*8 + 8, k and v 2 * (8*4 + 4), o 8*8, MLP 3 * 8*16, two norms 2 * 8
    layer = 72 + 72 + 64 + 384 + 16
    assert SHAPE.num_parameters == 2 * layer + 10 * 8 + 8
    assert replace(SHAPE, tied_embeddings=False).num_parameters == SHAPE.num_parameters + 80


def test_parameters_of_qwen2_5_0_5b():
    assert ShapeConfig(896, 24, 14, 2, 4864, 151936, tied_embeddings=True).num_parameters == 494_032_768


def test_heads_must_be_divisible_by_key_value_heads():
    with pytest.raises(ConfigError, match=r"num_kv_heads must divide num_heads \(4\), got 3"):
        replace(SHAPE, num_kv_heads=3)


@pytest.mark.parametrize("name", ["hidden_size", "num_layers", "num_heads", "intermediate_size", "vocab_size"])
def test_sizes_are_at_least_one(name):
    with pytest.raises(ConfigError, match=rf"model\.shape\.{name} must be >= 1"):
        replace(SHAPE, **{name: 0})


def test_start_is_one_of_three():
    with pytest.raises(ConfigError, match=r"model\.start must be one of base, rejuvenated, sft"):
        ModelConfig("b", "s", start="fresh")
