import pytest

from configs.errors import ConfigError
from envs.lookup import LETTERS, LookupEnv

NEXT = LETTERS[1:] + "a"  # a -> b -> c ... z -> a
CALL = '<tool_call>\n{"name": "lookup", "arguments": {"key": "%s"}}\n</tool_call>'


def start(task_hops=3, **kwargs):
    env = LookupEnv(**kwargs)
    return env, env.reset(options={"task": {"start": "a", "hops": task_hops, "map": NEXT}})


def test_an_episode_follows_the_map():
    env, (observation, info) = start()
    assert observation == ({"role": "user", "content": "a3"},)
    assert [schema["function"]["name"] for schema in info["tools"]] == ["lookup"]
    for key, letter in ("ab", "bc", "cd"):
        observation, reward, terminated, truncated, info = env.step(CALL % key)
        assert observation == ({"role": "tool", "name": "lookup", "content": letter},)
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert info["metrics"] == {"tool_calls": 1.0, "tool_errors": 0.0}
    observation, reward, terminated, truncated, info = env.step("#d")
    assert (observation, reward, terminated, truncated, info["status"]) == ((), 1.0, True, False, "finished")


@pytest.mark.parametrize("text", ["#c", "d", "", "#dd", "# D", "##"])
def test_other_answers_earn_nothing(text):
    env, _ = start()
    assert env.step(text)[1:3] == (0.0, True)


def test_demonstration_is_the_expert_episode():
    env, _ = start(task_hops=2)
    assert env.demonstration() == [
        {"role": "user", "content": "a2"},
        {"role": "assistant", "content": '<tool_call>\n{"name": "lookup", "arguments": {"key": "a"}}\n</tool_call>'},
        {"role": "tool", "name": "lookup", "content": "b"},
        {"role": "assistant", "content": '<tool_call>\n{"name": "lookup", "arguments": {"key": "b"}}\n</tool_call>'},
        {"role": "tool", "name": "lookup", "content": "c"},
        {"role": "assistant", "content": "#c"},
    ]


def test_every_map_is_one_cycle_so_that_each_number_of_hops_has_its_own_answer():
    env = LookupEnv()
    for index in range(50):
        mapping, reached = env.task(index)["map"], ["a"]
        for _ in range(25):
            reached.append(mapping[LETTERS.index(reached[-1])])
        assert sorted(reached) == list(LETTERS)
        assert mapping[LETTERS.index(reached[-1])] == "a"


def test_hops_keep_to_their_range_and_ood_can_be_longer():
    kwargs = {"hops_min": 1, "hops_max": 4, "ood_hops_min": 5, "ood_hops_max": 6}
    for split, expected in (("train", {1, 2, 3, 4}), ("heldout", {1, 2, 3, 4}), ("ood", {5, 6})):
        env = LookupEnv(split=split, **kwargs)
        assert {env.task(index)["hops"] for index in range(100)} == expected
        assert env.max_turns == max(expected) + 3


@pytest.mark.parametrize("key", ["", "ab", "A", "1", "é"])
def test_a_key_that_is_no_letter_is_an_error_of_its_call_only(key):
    env, _ = start()
    observation, reward, terminated, _, info = env.step(CALL % key)
    assert observation == ({"role": "tool", "name": "lookup", "content": "Error: key must be one letter from a to z"},)
    assert (reward, terminated, info["metrics"]["tool_errors"]) == (0.0, False, 1.0)
    assert env.step(CALL % "a")[0][0]["content"] == "b"


def test_error_text_can_be_fixed():
    env, _ = start(error_text="?")
    assert env.step(CALL % "1")[0][0]["content"] == "?"


def test_only_calling_is_truncated():
    env, _ = start(hops_max=3)
    results = [env.step(CALL % "a")[2:4] for _ in range(6)]
    assert results == [(False, False)] * 5 + [(False, True)]


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"hops_min": 0}, "hops_min"),
        ({"hops_max": 26}, "hops_max"),
        ({"hops_max": 5, "max_turns": 5}, "max_turns"),
        ({"split": "ood", "ood_hops_max": 40}, "ood_hops_max"),
    ],
)
def test_ranges_are_checked(kwargs, field):
    with pytest.raises(ConfigError) as error:
        LookupEnv(**kwargs)
    assert error.value.field == f"environment.kwargs.{field}"
