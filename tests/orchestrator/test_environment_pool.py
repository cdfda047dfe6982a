from configs.environment import EnvironmentConfig
from orchestrator.environment_pool import EnvironmentPool, close_quietly
from tests.orchestrator.fakes import ChainEnv

TRAINING = EnvironmentConfig("tests.orchestrator.fakes:ChainEnv", {"turns": 1})
HELDOUT = EnvironmentConfig("tests.orchestrator.fakes:ChainEnv", {"turns": 2})


def pool_for(count):
    pool = EnvironmentPool()
    pool.make_room(count)
    return pool


def idle(pool):
    return [[env.unwrapped.turns for env in envs] for envs in pool._idle.values() if envs]


def test_environment_is_used_again_by_its_kind_only():
    pool = pool_for(4)
    first = pool.take(TRAINING)
    pool.give_back(TRAINING, first)
    assert pool.take(HELDOUT) is not first
    assert pool.take(TRAINING) is first
    assert pool.take(TRAINING) is not first


def test_room_made_once_stays():
    pool = pool_for(3)
    pool.make_room(1)
    for env in [pool.take(TRAINING) for _ in range(4)]:
        pool.give_back(TRAINING, env)
    assert idle(pool) == [[1, 1, 1]]


def test_beyond_its_room_it_keeps_what_was_used_last():
    pool = pool_for(3)
    for kind, count, kept in ((TRAINING, 2, [[1, 1]]), (HELDOUT, 10, [[2, 2, 2]]), (TRAINING, 2, [[2], [1, 1]])):
        for env in [pool.take(kind) for _ in range(count)]:
            pool.give_back(kind, env)
        assert idle(pool) == kept


def test_closing_the_pool_closes_what_is_idle():
    pool = pool_for(3)
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
