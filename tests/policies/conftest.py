"""A real vLLM engine on a pico checkpoint, one per test module: its start is the dear part."""

import pytest

from configs.rollout import RolloutConfig
from tests.pico import make_checkpoint

ENGINE_CONFIG = RolloutConfig(max_model_len=512, max_num_seqs=256, kv_cache_bytes=128 << 20)


@pytest.fixture(scope="session")
def pico_dir(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("pico"))


@pytest.fixture(scope="module")
def engine(pico_dir, tmp_path_factory):
    from policies.engine import Engine

    engine = Engine(ENGINE_CONFIG, pico_dir, load_weights=True, log_path=tmp_path_factory.mktemp("logs") / "engine.log")
    yield engine
    engine.close()
