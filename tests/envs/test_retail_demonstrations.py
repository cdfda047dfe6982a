"""Examples, resets and required outputs of the desk on the generated shop, which is there without any data."""

from __future__ import annotations

import statistics
import time

import pytest

import envs
from envs.retail.database import Database
from envs.retail.environment import RetailEnv
from envs.retail.tools import Desk
from envs.tool_calls import format_hermes
from policies.rendering import Renderer
from tests.pico import make_tokenizer


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_an_example_trains_on_the_assistants_turns_only(split):
    env = envs.make("rejuvenate/Retail-v0", {"split": split}).unwrapped
    renderer = Renderer(make_tokenizer())
    for index in range(8):
        _, info = env.reset(options={"index": index})
        messages = env.demonstration()
        token_ids, mask = renderer.training_example(messages, info["tools"])
        assert len(token_ids) == len(mask)
        trained = renderer.tokenizer.decode([token for token, use in zip(token_ids, mask, strict=True) if use])
        rest = renderer.tokenizer.decode([token for token, use in zip(token_ids, mask, strict=True) if not use])
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        assert trained == "".join(f"{text}<eos>" for text in said)
        for message in messages:
            if message["role"] != "assistant":
                assert message["content"] in rest, message["role"]
        assert {message["role"] for message in messages} == {"system", "user", "assistant", "tool"}


def test_a_reset_takes_less_than_five_milliseconds():
    env = RetailEnv()
    tasks = [env.task(index) for index in range(50)]
    milliseconds = []
    for task in tasks:
        started = time.perf_counter()
        env.reset(options={"task": task})
        milliseconds.append(1e3 * (time.perf_counter() - started))
    assert statistics.median(milliseconds) < 5


def asked_for_money(env):
    """A task made by hand: how much two orders of one user cost, and nothing is to be changed."""
    user_ids = sorted({env.task(index)["user_id"] for index in range(60)})
    found = ((user_id, env.database.read("users", user_id)) for user_id in user_ids)
    user_id, user = next((user_id, user) for user_id, user in found if len(user["orders"]) > 1)
    orders = [env.database.read("orders", order_id) for order_id in user["orders"][:2]]
    outputs = [str(order["payment_history"][0]["amount"]) for order in orders]
    instruction = f"You are {user['name']['first_name']} and want to know what your first two orders cost."
    return {"user_id": user_id, "instruction": instruction, "actions": [], "outputs": outputs}


@pytest.mark.parametrize(
    ("say", "reward"),
    [
        (lambda first, second: [f"They cost {first} and {second}."], 1.0),
        (lambda first, second: [f"The second: ${second}", f"and the first: ${first}."], 1.0),
        (lambda first, second: [f"The first one costs {first}."], 0.0),
        (lambda first, second: ["That is all I can say."], 0.0),
        (lambda first, second: [format_hermes("think", {"thought": f"{first} {second}"}), "Bye."], 0.0),
    ],
)
def test_outputs_of_a_task_made_by_hand_count_where_the_user_is_told(say, reward):
    env = Patient()
    env.reset(options={"index": 0})
    task = asked_for_money(env)
    assert len(set(task["outputs"])) == 2
    env.reset(options={"task": task})
    turns = [*say(*task["outputs"]), "Good bye."]
    for turn in turns:
        _, found, terminated, _, info = env.step(turn)
    assert (terminated, found) == (True, reward)
    assert info["metrics"]["database_equal"] == 1.0
    assert info["metrics"]["outputs_said"] == reward


def test_outputs_do_not_make_up_for_a_change_that_nobody_wanted():
    env = Patient()
    env.reset(options={"index": 0})
    task = asked_for_money(env)
    env.reset(options={"task": task})
    address = {"address1": "1 A", "address2": "", "city": "B", "state": "C", "country": "USA", "zip": "1"}
    call = {"name": "modify_user_address", "kwargs": {"user_id": task["user_id"], **address}}
    assert not Desk(Database(env.dataset.template)).call(call).startswith("Error")
    for turn in (format_hermes(call["name"], call["kwargs"]), " and ".join(task["outputs"]), "Good bye."):
        _, reward, terminated, _, info = env.step(turn)
    assert (terminated, reward) == (True, 0.0)
    assert (info["metrics"]["database_equal"], info["metrics"]["outputs_said"]) == (0.0, 1.0)


class Patient(RetailEnv):
    """With a user who listens until the assistant says good bye."""

    def make_user(self, task):
        return Listener(task["instruction"])


class Listener:
    def __init__(self, instruction):
        self.instruction = instruction

    def open(self):
        return self.instruction

    def reply(self, text):
        return "###STOP###" if text == "Good bye." else "Go on."

    def take_figures(self):
        return {}
