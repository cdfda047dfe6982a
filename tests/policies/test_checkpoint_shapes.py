from __future__ import annotations

import pytest

from policies.checkpoint_shapes import checkpoint_shapes
from tests.pico import make_checkpoint


@pytest.mark.parametrize("tied", [True, False])
def test_second_name_of_a_tied_tensor_is_a_duplicate_only_where_the_config_ties_it(tmp_path, tied):
    shapes, duplicates = checkpoint_shapes(make_checkpoint(tmp_path, tied=tied))
    assert shapes["model.norm.weight"] == (128,)
    assert ("lm_head.weight" in shapes) is not tied
    assert duplicates == ({"lm_head.weight"} if tied else set())
