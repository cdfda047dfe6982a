import pickle

import gymnasium
import numpy as np
import pytest

from configs.errors import ConfigError
from envs import ConversationEnv, Reply, check_environment


class Doubling(ConversationEnv):
    """The example of the module's docstring."""

    def sample_task(self, rng):
        return {"number": int(rng.integers(10_000))}

    def first_messages(self, task):
        return f"What is twice {task['number']}?"

    def respond(self, text):
        return Reply(reward=float(text.strip() == str(2 * self.current_task["number"])), terminated=True)


class Guessing(ConversationEnv):
    """Guess a number; every wrong guess gets a hint and a small penalty."""

    def sample_task(self, rng):
        return {"number": int(rng.integers(1, 100_000))}

    def begin(self, task):
        self.guesses = 0

    def first_messages(self, task):
        return [{"role": "system", "content": "Guess a number."}, {"role": "user", "content": "Begin."}]

    def respond(self, text):
        self.guesses += 1
        if text == str(self.current_task["number"]):
            return Reply("Right.", reward=1.0, terminated=True, metrics={"guesses": self.guesses})
        return Reply([{"role": "user", "content": "Wrong."}], reward=-0.1)

    def expert_turns(self, task):
        return [str(task["number"])]


def test_single_turn_episode():
    env = Doubling()
    observation, info = env.reset(options={"task": {"number": 21}})
    assert observation == ({"role": "user", "content": "What is twice 21?"},)
    assert info == {"task": {"number": 21}, "tools": [], "metrics": {}}
    observation, reward, terminated, truncated, info = env.step(" 42\n")
    assert (observation, reward, terminated, truncated) == ((), 1.0, True, False)
    assert info["status"] == "finished"
    env.reset(options={"task": {"number": 21}})
    assert env.step("43")[1] == 0.0


def test_observation_is_what_was_added_since_the_last_step():
    env = Guessing()
    env.reset(options={"task": {"number": 5}})
    observation, reward, terminated, truncated, info = env.step("4")
    assert observation == ({"role": "user", "content": "Wrong."},)
    assert (reward, terminated, truncated) == (-0.1, False, False)
    assert "status" not in info
    observation, reward, terminated, truncated, info = env.step("5")
    assert (observation[0]["content"], reward, terminated, truncated) == ("Right.", 1.0, True, False)
    assert info["metrics"] == {"guesses": 2.0}
    assert [m["role"] for m in env.messages] == ["system", "user", "assistant", "user", "assistant", "user"]


def test_limit_on_turns_truncates_and_does_not_terminate():
    env = Guessing(max_turns=2)
    env.reset(options={"task": {"number": 5}})
    assert env.step("1")[2:4] == (False, False)
    _, _, terminated, truncated, info = env.step("1")
    assert (terminated, truncated, info["status"]) == (False, True, "truncated")


def test_a_task_solved_on_the_last_turn_is_terminated_only():
    env = Guessing(max_turns=1)
    env.reset(options={"task": {"number": 5}})
    assert env.step("5")[2:4] == (True, False)


def test_step_without_a_running_episode_is_refused():
    env = Doubling()
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"Doubling\.step .* Call reset first"):
        env.step("1")
    env.reset()
    env.step("1")
    with pytest.raises(gymnasium.error.ResetNeeded, match="after the episode ended"):
        env.step("1")
    env.reset()
    env.step("1")


def test_an_action_that_is_no_text_is_refused():
    env = Doubling()
    env.reset()
    with pytest.raises(ValueError, match=r"must be the assistant's text \(str\), got int"):
        env.step(3)


def test_reset_with_the_task_of_info_brings_the_episode_back():
    env = Guessing()
    observation, info = env.reset(seed=3)
    again, info_again = Guessing(seed=9, split="heldout").reset(options={"task": info["task"]})
    assert (again, info_again) == (observation, info)


def test_state_of_the_last_episode_is_gone_after_reset():
    env = Guessing()
    for _ in range(2):
        env.reset(options={"task": {"number": 5}})
        assert env.step("5")[4]["metrics"] == {"guesses": 1.0}


def test_tasks_are_a_pure_function_of_seed_split_and_index():
    tasks = [Doubling(seed=1).task(index) for index in range(20)]
    env = Doubling(seed=1)
    env.reset(seed=5)
    assert [env.task(index) for index in reversed(range(20))] == tasks[::-1]
    assert tasks != [Doubling(seed=2).task(index) for index in range(20)]


def test_splits_of_any_seed_are_disjoint():
    drawn = {
        split: {Doubling(split=split, seed=seed).task(i)["number"] for seed in range(3) for i in range(200)}
        for split in ("train", "heldout", "ood", "tuning")
    }
    assert all(len(numbers) > 150 for numbers in drawn.values())
    for first in drawn:
        for second in drawn:
            assert first == second or not drawn[first] & drawn[second]


def test_train_is_unbounded_and_other_splits_are_fixed():
    assert Doubling().num_tasks is None
    Doubling().task(2**62)
    env = Doubling(split="heldout")
    assert env.num_tasks == 1000
    env.task(999)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1000\), got 1000"):
        env.task(1000)


def test_reset_by_index():
    env = Doubling(split="heldout")
    assert env.reset(options={"index": 7})[1]["task"] == env.task(7)


def test_demonstration_is_a_whole_conversation():
    env = Guessing()
    observation, info = env.reset(seed=4)
    messages = env.demonstration()
    assert messages == [
        *observation,
        {"role": "assistant", "content": str(info["task"]["number"])},
        {"role": "user", "content": "Right."},
    ]


class Patient(Guessing):
    """Its expert guesses wrong twice first, whatever the number is."""

    def expert_turns(self, task):
        return ["-1", "-2", str(task["number"])]


def test_expert_who_takes_more_turns_than_there_are_names_the_setting():
    env = Patient(max_turns=2)
    env.reset(seed=4)
    with pytest.raises(ConfigError, match=r"^environment\.kwargs\.max_turns must be >= 3, .* got 2\. Set it to 3 or"):
        env.demonstration()
    env = Patient(max_turns=3)
    env.reset(seed=4)
    assert env.demonstration()[-1]["content"] == "Right."


def test_expert_who_goes_on_after_the_end_is_an_error_of_its_author():
    env = Patient()
    env.reset(options={"task": {"number": -1}})
    with pytest.raises(ValueError, match=r"Patient\.expert_turns goes on after the episode has ended"):
        env.demonstration()


def test_environment_without_an_expert_has_no_demonstration():
    env = Doubling()
    env.reset()
    assert env.demonstration() is None


def test_demonstration_before_reset_is_refused():
    with pytest.raises(gymnasium.error.ResetNeeded, match="needs a task"):
        Guessing().demonstration()


def test_render_shows_the_conversation():
    env = Guessing(render_mode="ansi")
    env.reset(options={"task": {"number": 5}})
    env.step("4")
    assert env.render() == "system: Guess a number.\nuser: Begin.\nassistant: 4\nuser: Wrong."
    assert Guessing().render() is None


def test_what_is_returned_is_not_shared():
    env = Guessing()
    observation, info = env.reset(options={"task": {"number": 5}})
    observation[0]["content"] = "changed"
    info["task"]["number"] = 6
    assert env.messages[0]["content"] == "Guess a number."
    assert env.step("5")[1] == 1.0


def test_environment_survives_pickling():
    env = pickle.loads(pickle.dumps(Guessing(seed=3)))
    assert env.task(0) == Guessing(seed=3).task(0)
    check_environment(env)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "test"}, "environment.kwargs.split must be one of heldout, ood, train, tuning, got 'test'"),
        ({"seed": -1}, "environment.kwargs.seed must be >= 0, got -1"),
        ({"max_turns": 0}, "environment.kwargs.max_turns must be >= 1, got 0"),
    ],
)
def test_wrong_arguments_name_field_rule_and_value(kwargs, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        Doubling(**kwargs)


def test_too_few_tasks_for_splits_by_hash_is_said():
    class Constant(Doubling):
        def sample_task(self, rng):
            return {"number": 1}

    messages = []
    for split in ("train", "heldout", "ood", "tuning"):
        try:
            Constant(split=split).task(0)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) == 3
    assert all("too few different tasks" in message and "override task(index)" in message for message in messages)


def _broken(**methods):
    return type("Broken", (Doubling,), methods)()


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"sample_task": lambda self, rng: {"n": np.int64(3)}}, r"plain JSON .* Convert numpy values with int\(\)"),
        ({"sample_task": lambda self, rng: {"n": float("nan")}}, "plain JSON"),
        ({"first_messages": lambda self, task: [{"role": "user"}]}, "Broken.first_messages must give"),
        ({"respond": lambda self, text: 1.0}, "Broken.respond must return a Reply, got float"),
        ({"respond": lambda self, text: Reply([{"content": "x"}])}, "Broken.respond must give"),
        ({"respond": lambda self, text: Reply(reward=float("nan"))}, "reward that is not finite"),
    ],
)
def test_mistakes_of_an_author_are_named(methods, message):
    env = _broken(**methods)
    with pytest.raises(ValueError, match=message):  # noqa: PT012 - some raise at reset, some at step
        env.reset()
        env.step("1")


def test_methods_an_author_forgot_are_named():
    with pytest.raises(NotImplementedError, match=r"ConversationEnv must define sample_task\(rng\) or task\(index\)"):
        ConversationEnv().reset()
