from configs.environment import EnvironmentConfig
from orchestrator.environment_pool import EnvironmentPool, close_quietly
from tests.orchestrator.fakes import ChainEnv

TRAINING = EnvironmentConfig("tests.orchestrator.fakes:ChainEnv", {"turns": 1})
HELDOUT = EnvironmentConfig("tests.orchestrator.fakes:ChainEnv", {"turns": 2})


def idle(pool):
    return [[env.unwrapped.turns for env in envs] for envs in pool._idle.values() if envs]


def test_environment_is_used_again_by_its_kind_only():
    pool = EnvironmentPool(4)
    first = pool.take(TRAINING)
    pool.give_back(TRAINING, first)
    assert pool.take(HELDOUT) is not first
    assert pool.take(TRAINING) is first
    assert pool.take(TRAINING) is not first


def test_large_evaluation_keeps_no_environment_per_episode_and_gives_way_to_training():
    pool = EnvironmentPool(3)
    for kind, count, kept in ((TRAINING, 2, [[1, 1]]), (HELDOUT, 10, [[2, 2, 2]]), (TRAINING, 2, [[2], [1, 1]])):
        for env in [pool.take(kind) for _ in range(count)]:
            pool.give_back(kind, env)
        assert idle(pool) == kept


def test_closing_the_pool_closes_what_is_idle():
    pool = EnvironmentPool(3)
    env = pool.take(TRAINING)
    pool.give_back(TRAINING, env)
    pool.close()
    assert env.unwrapped.closed
    assert idle(pool) == []


def test_environment_that_cannot_be_closed_is_dropped():
    class StuckEnv(ChainEnv):
        def close(self):
            super().close()
            raise OSError("container is gone")

    env = StuckEnv()
    close_quietly(env)
    assert env.closed
