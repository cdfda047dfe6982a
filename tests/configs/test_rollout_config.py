import pytest

from configs.errors import ConfigError
from configs.rollout import RolloutConfig


def test_several_gpus_per_engine_need_gpus():
    with pytest.raises(ConfigError) as raised:
        RolloutConfig(device="cpu", tensor_parallel=2)
    assert str(raised.value) == (
        "rollout.tensor_parallel must be 1 where rollout.device is cpu, got 2. "
        "Leave it at 1, or set rollout.device to cuda."
    )
    assert RolloutConfig(device="cuda", tensor_parallel=2).tensor_parallel == 2
