import re
import warnings
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.arithmetic import ArithmeticEnv
from envs.lookup import LookupEnv
from envs.registry import REGISTRATIONS
from envs.spaces import ChatText
from envs.splits import SHARES
from envs.tool_calls import format_hermes

EXAMPLE = "examples.environments.next_letter:NextLetter"
EXAMPLE_FILE = Path("examples/environments/next_letter.py")
EVERY = [
    *((environment_id, {}) for environment_id in [*REGISTRATIONS, EXAMPLE]),
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
    assert len(EXAMPLE_FILE.read_text().splitlines()) <= 25
    env = envs.make(EXAMPLE)
    assert env.reset(options={"task": {"letter": "y", "steps": 3}})[0] == ({"role": "user", "content": "y3"},)
    for key, letter in ("yz", "za", "ab"):
        assert env.step(format_hermes("lookup", {"key": key}))[0][0]["content"] == letter
    assert env.step(" #b\n")[1:3] == (1.0, True)


@pytest.mark.parametrize("text", ["#c", "b", "", "#ab", "#B", "# b"])
def test_other_answers_to_the_example_earn_nothing(text):
    env = envs.make(EXAMPLE)
    env.reset(options={"task": {"letter": "y", "steps": 3}})
    assert env.step(text)[1:3] == (0.0, True)


@pytest.mark.parametrize("key", ["", "ab", "A", "1", "é"])
def test_a_key_that_is_no_letter_is_an_error_in_the_example(key):
    env = envs.make(EXAMPLE)
    env.reset(options={"task": {"letter": "y", "steps": 3}})
    observation, _, terminated, _, info = env.step(format_hermes("lookup", {"key": key}))
    assert observation[0]["content"].startswith("Error: ")
    assert (terminated, info["metrics"]["tool_errors"]) == (False, 1.0)


def test_every_split_has_tasks_of_the_example():
    found = {}
    for split in SHARES:
        env = envs.make(EXAMPLE, {"split": split})
        found[split] = {env.unwrapped.first_messages(env.unwrapped.task(index)) for index in range(200)}
    assert all(len(tasks) >= 4 for tasks in found.values())
    assert sum(map(len, found.values())) == len(set().union(*found.values()))
    assert {text[1] for text in found["train"]} == set("1234")


def test_the_example_is_the_code_block_of_the_documentation():
    blocks = re.findall(r"```python\n(.*?)```", Path("docs/extending.md").read_text(), re.DOTALL)
    assert EXAMPLE_FILE.read_text() in blocks


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


class Plain(gymnasium.Env):
    """A gymnasium.Env that shares no code with this package: lists of messages, an info with nothing in it."""

    action_space = ChatText()
    info: dict = {}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(100))
        return [{"role": "user", "content": f"Say {self.number}."}], dict(self.info)

    def step(self, action):
        return [], float(action == str(self.number)), True, False, dict(self.info)


class PlainWithoutLimit(Plain):
    def step(self, action):
        return [{"role": "user", "content": "Again."}], 0.0, False, False, {}


class PlainWithTasks(Plain):
    num_tasks = 2

    def task(self, index):
        return {"number": 10 + index}

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.number = (options or {}).get("task", {"number": self.number})["number"]
        observation = [{"role": "user", "content": f"Say {self.number}."}]
        return observation, info | {"task": {"number": self.number}}


def test_an_environment_of_another_family_needs_no_task_tools_or_metrics():
    envs.check_environment(Plain())
    envs.check_environment(PlainWithTasks())


def test_a_wrapper_may_end_the_episodes_of_an_environment_of_another_family():
    envs.check_environment(gymnasium.wrappers.TimeLimit(PlainWithoutLimit(), 5))


SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("base", "members", "problem"),
    [
        (Plain, {"info": {"metrics": {"right": "yes"}}}, "info of reset has metrics that are no numbers: ['right']"),
        (Plain, {"info": {"status": "great"}}, "the status of info of reset must be one of finished, truncated, "),
        (Plain, {"info": {"metrics": [1.0]}}, "info of reset needs 'metrics' as a dict, got [1.0]"),
        (Plain, {"info": {"task": {"numbers": (1, 2)}}}, "info of reset changes when it is written as JSON"),
        (Plain, {"info": {"tools": [SCHEMA]}}, "tool schemas: tool add has no description"),
        (Plain, {"action_space": gymnasium.spaces.Text(10)}, "the action space does not contain the text"),
        (Plain, {"step": lambda self, action: ("text", 0.0, True, False, {})}, "observation of step 1 must be a tuple"),
        (PlainWithoutLimit, {}, "1000 steps with sampled text neither terminated nor truncated"),
        (PlainWithTasks, {"reset": Plain.reset}, "info of reset needs 'task' as a dict, got None"),
        (PlainWithTasks, {"task": lambda self, index: {"number": object()}}, "pure tasks: task(1) gave two different"),
        (Plain, {"reset": lambda self, **kwargs: 1 // 0}, "- five values: raised ZeroDivisionError: "),
    ],
)
def test_the_checker_names_what_is_wrong_with_an_environment_of_another_family(base, members, problem):
    with pytest.raises(ValueError, match="Other cannot be trained on:") as error:
        envs.check_environment(type("Other", (base,), members)())
    assert problem in str(error.value)


class FourValues(Plain):
    def step(self, action):
        return [], 0.0, True, {}


@pytest.mark.parametrize(
    ("base", "members", "problem"),
    [
        (FourValues, {}, "five values: step 1 must return a tuple of 5 values, got"),
        (Plain, {"step": lambda self, action: ([], float("nan"), True, False, {})}, "must be a finite number, got nan"),
        (Plain, {"step": lambda self, action: ([], 0.0, 1, False, {})}, "must be True or False, got 1."),
        (Plain, {"step": lambda self, action: ([], 0.0, True, False, None)}, "info, a dict, as its last value"),
    ],
)
def test_what_step_returns_is_checked(base, members, problem):
    with pytest.raises(ValueError, match="cannot be trained on") as error:
        envs.check_environment(type("Other", (base,), members)())
    assert problem in str(error.value)
