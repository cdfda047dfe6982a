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


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"env_processes": 0}, "rollout.env_processes must be >= 1, got 0"),
        ({"env_processes": 2, "env_hosts": 3}, r"rollout.env_hosts must be <= rollout.env_processes \(2\), got 3"),
        ({"env_cpus": 0}, "rollout.env_cpus must be > 0, got 0"),
        ({"episode_timeout_s": 0.0}, "rollout.episode_timeout_s must be > 0, got 0.0"),
    ],
)
def test_limits_of_environments_out_of_bounds_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        RolloutConfig(**settings)
