import warnings
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.arithmetic import ArithmeticEnv
from envs.lookup import LookupEnv
from envs.registry import REGISTRATIONS

CONVERTER = "examples.environments.unit_converter:UnitConverter"
EVERY = [
    *((environment_id, {}) for environment_id in [*REGISTRATIONS, CONVERTER]),
    (
        "rejuvenate/Arithmetic-v0",
        {"split": "ood", "ood_operations_min": 4, "correct_reward": 2.0, "wrong_reward": -1.0},
    ),
    ("rejuvenate/Lookup-v0", {"split": "heldout", "hops_max": 9, "error_text": "?"}),
]


@pytest.mark.parametrize(("environment_id", "kwargs"), EVERY)
def test_gymnasiums_checker_is_clean(environment_id, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(envs.make(environment_id, kwargs))
        check_env(envs.make(environment_id, kwargs | {"render_mode": "ansi"}))


@pytest.mark.parametrize(("environment_id", "kwargs"), EVERY)
def test_our_checker_is_clean(environment_id, kwargs):
    envs.check_environment(envs.make(environment_id, kwargs))


def test_the_example_has_at_most_25_lines_and_works():
    assert len(Path("examples/environments/unit_converter.py").read_text().splitlines()) <= 25
    env = envs.make(CONVERTER)
    env.reset(options={"task": {"amount": 3, "unit": "mile"}})
    call = '<tool_call>{"name": "metres", "arguments": {"amount": 3, "unit": "mile"}}</tool_call>'
    assert env.step(call)[0][0]["content"] == "4828.03"
    assert env.step("4828.03")[1:3] == (1.0, True)


class Unseeded(ArithmeticEnv):
    count = 0

    def first_messages(self, task):
        Unseeded.count += 1
        super().first_messages(task)
        return f"{Unseeded.count}"


class WrongExpert(ArithmeticEnv):
    def expert_turns(self, task):
        return ["#101"]


class NoTaskInInfo(ArithmeticEnv):
    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        del info["task"]
        return observation, info


class Endless(LookupEnv):
    def step(self, action):
        return *super().step('<tool_call>{"name": "lookup"}</tool_call>')[:2], False, False, {}


class StepsOn(ArithmeticEnv):
    def step(self, action):
        self._running = True
        return super().step(action)


class Silent(ArithmeticEnv):
    def first_messages(self, task):
        super().first_messages(task)
        return []


class Forgetful(ArithmeticEnv):
    def task(self, index):
        return self.sample_task(self.np_random)


class IgnoresTask(ArithmeticEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class BadSchema(LookupEnv):
    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        info["tools"][0]["function"]["parameters"]["required"] = ["other"]
        return observation, info


@pytest.mark.parametrize(
    ("cls", "problem"),
    [
        (Unseeded, "same seed, same episode: reset differs"),
        (WrongExpert, "demonstrations: the expert's episode on task"),
        (NoTaskInInfo, "info of reset needs 'task' as a dict, got None"),
        (Endless, "episodes end:"),
        (StepsOn, "step after the end of the episode was accepted"),
        (Silent, "reset gave no message"),
        (Forgetful, "pure tasks: task(3) gave two different tasks"),
        (IgnoresTask, "task round trip: reset on task"),
        (BadSchema, "tool schemas: tool lookup requires parameters that it does not have: ['other']"),
    ],
)
def test_the_checker_names_what_is_wrong(cls, problem):
    with pytest.raises(ValueError, match=f"{cls.__name__} cannot be trained on:") as error:
        envs.check_environment(cls())
    assert problem in str(error.value)
