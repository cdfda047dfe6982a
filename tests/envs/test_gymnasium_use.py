"""Gymnasium's own ways to make, reset, wrap, vectorize and render, on environments of every kind here."""

import gymnasium
import pytest
from gymnasium import wrappers

import envs
from configs.environment import WrapperConfig
from configs.errors import ConfigError
from envs.registry import REGISTRATIONS
from envs.spaces import ChatText, Messages

LOOKUP = "rejuvenate/Lookup-v0"
EXAMPLE = "examples.environments.next_letter:NextLetter"
CALL = '<tool_call>{"name": "lookup", "arguments": {"key": "a"}}</tool_call>'


def vector(mode, **kwargs):
    options = {"context": "spawn", "shared_memory": False} if mode == "async" else {}
    return gymnasium.make_vec(LOOKUP, num_envs=2, vectorization_mode=mode, vector_kwargs=options, **kwargs)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_vector_plays_what_single_environments_play(mode):
    singles = [gymnasium.make(LOOKUP, hops_max=4) for _ in range(2)]
    made = vector(mode, hops_max=4)
    assert (made.single_action_space, made.single_observation_space) == (ChatText(), Messages())
    expected = [env.reset(seed=seed) for env, seed in zip(singles, (5, 6), strict=True)]
    observations, infos = made.reset(seed=[5, 6])
    assert observations == tuple(observation for observation, _ in expected)
    assert infos["task"]["start"].tolist() == [info["task"]["start"] for _, info in expected]
    for turn in ((CALL, CALL), (CALL, "#a"), (CALL, "over already")):
        observations, rewards, terminated, truncated, _ = made.step(turn)
        for number, env in enumerate(singles):
            if number == 1 and turn[1] == "over already":  # the vector has begun the next episode by itself
                assert observations[1][0]["role"] == "user"
                continue
            observation, reward, *ended, _ = env.step(turn[number])
            assert observations[number] == observation
            assert [rewards[number], terminated[number], truncated[number]] == [reward, *ended]
    made.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_vector_takes_a_task_for_all_of_its_environments(mode):
    task = gymnasium.make(LOOKUP).unwrapped.task(3)
    made = vector(mode)
    observations, _ = made.reset(options={"task": task})
    assert [observation[0]["content"] for observation in observations] == [f"{task['start']}{task['hops']}"] * 2
    made.close()


@pytest.mark.parametrize("environment_id", [*REGISTRATIONS, EXAMPLE])
def test_the_same_seed_and_the_same_task_bring_the_same_episode(environment_id):
    env, other = envs.make(environment_id), envs.make(environment_id)
    observation, info = env.reset(seed=11)
    assert other.reset(seed=11) == (observation, info)
    assert other.reset(seed=12)[1]["task"] != info["task"]
    assert other.reset(seed=13, options={"task": info["task"]}) == (observation, info)
    first, second = env.reset(), env.reset()  # goes on from the seed
    other.reset(seed=11)
    other.reset()
    assert first[1]["task"] != second[1]["task"]


@pytest.mark.parametrize("environment_id", [*REGISTRATIONS, EXAMPLE])
def test_render_modes(environment_id):
    env = envs.make(environment_id, {"render_mode": "ansi"})
    observation, _ = env.reset(seed=1)
    env.step("hello there")
    assert observation[0]["content"] in env.render()
    assert "assistant: hello there" in env.render()
    silent = envs.make(environment_id)
    silent.reset(seed=1)
    assert silent.render() is None
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.render_mode must be one of ansi, got 'rgb_array'"):
        envs.make(environment_id, {"render_mode": "rgb_array"})


def test_rendering_in_lists_and_in_vectors():
    frames = gymnasium.make(LOOKUP, render_mode="ansi_list")
    frames.reset(options={"task": {"start": "z", "hops": 1, "map": "bcdefghijklmnopqrstuvwxyza"}})
    frames.step(CALL)
    assert frames.render() == ["user: z1", f"user: z1\nassistant: {CALL}\nlookup: b"]
    made = gymnasium.make_vec(LOOKUP, num_envs=2, render_mode="ansi")
    observations, _ = made.reset(seed=2)
    assert made.render() == tuple(f"user: {observation[0]['content']}" for observation in observations)


@pytest.mark.parametrize("environment_id", [*REGISTRATIONS, EXAMPLE])
def test_wrappers_of_gymnasium(environment_id):
    limited = gymnasium.make(environment_id, max_episode_steps=1) if environment_id in REGISTRATIONS else None
    around = [
        WrapperConfig("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 1}),
        WrapperConfig("gymnasium.wrappers:RecordEpisodeStatistics"),
        WrapperConfig("gymnasium.wrappers:OrderEnforcing"),
        WrapperConfig("gymnasium.wrappers:PassiveEnvChecker"),
    ]
    for env in filter(None, (limited, envs.make(environment_id, {}, around))):
        env.reset(seed=3)
        *_, terminated, truncated, info = env.step("hello")
        assert terminated or truncated
        assert info["metrics"] is not None
        assert env.unwrapped.current_task
    assert info["episode"]["l"] == 1
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.make(environment_id, {}, around).step("hello")


def test_wrappers_that_change_rewards_and_begin_anew():
    env = wrappers.Autoreset(wrappers.TransformReward(gymnasium.make(LOOKUP), lambda reward: 2 * reward - 1))
    _, info = env.reset(seed=1)
    turns = env.unwrapped.expert_turns(info["task"])
    rewards = [env.step(turn)[1] for turn in turns]
    assert rewards == [-1.0] * (len(turns) - 1) + [1.0]
    assert env.step("begin anew")[0][0]["role"] == "user"
    statistics = wrappers.vector.RecordEpisodeStatistics(gymnasium.make_vec(LOOKUP, num_envs=2))
    statistics.reset(seed=4)
    assert statistics.step(["#", "#"])[4]["episode"]["l"].tolist() == [1, 1]
