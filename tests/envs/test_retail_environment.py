import json
import subprocess
import sys
import threading

import pytest

import envs
from configs.errors import ConfigError
from envs.retail import generated, generated_tasks
from envs.retail.database import Database
from envs.retail.environment import RetailEnv
from envs.retail.tools import SCHEMAS, Desk
from envs.retail.users import CONFIRMATION, STOP, ScriptedUser
from envs.splits import SHARES
from envs.tool_calls import format_hermes
from tests.tiny_shop import TABLES

CANCEL = {"name": "cancel_pending_order", "kwargs": {"order_id": "#3", "reason": "no longer needed"}}
TASK = {"user_id": "zoe_a_1", "instruction": "You are Zoé. Cancel #3.", "actions": [CANCEL], "outputs": ["5.50"]}


@pytest.fixture
def folder(tmp_path):
    """The tiny shop as a folder of tau-bench's form."""
    for table, records in TABLES.items():
        (tmp_path / f"{table}.json").write_text(json.dumps(records))
    (tmp_path / "policy.md").write_text("Be kind.\n")
    (tmp_path / "tools.json").write_text(json.dumps(list(SCHEMAS.values())))
    (tmp_path / "tasks_train.json").write_text(json.dumps([TASK, TASK | {"actions": []}]))
    (tmp_path / "tasks_dev.json").write_text(json.dumps([TASK]))
    return tmp_path


class Talk(RetailEnv):
    """A user with lines of the test's own."""

    lines = ("Hello.", "Go on.", f"Bye. {STOP}")

    def make_user(self, task):
        return ScriptedUser(self.lines)


def play(env, *turns):
    for turn in turns:
        result = env.step(turn if isinstance(turn, str) else format_hermes(turn["name"], turn["kwargs"]))
    return result


def test_an_episode_with_the_scripted_user(folder):
    env = envs.make("rejuvenate/Retail-v0", {"path": str(folder)}).unwrapped
    assert env.num_tasks == 2
    env.task(0)["actions"].clear()
    assert env.task(0) == TASK, "a caller's changes are its own"
    observation, info = env.reset(options={"index": 0})
    assert observation == (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "You are Zoé. Cancel #3."},
    )
    assert info["task"] == TASK
    observation, reward, terminated, _, info = play(env, "You get $5.50 back. Do you confirm?")
    assert observation == ({"role": "user", "content": CONFIRMATION},)
    assert (reward, terminated, info["metrics"]) == (0.0, False, {"tool_calls": 0.0, "tool_errors": 0.0})
    observation, reward, terminated, _, info = play(env, CANCEL)
    assert observation[0]["name"] == "cancel_pending_order"
    assert json.loads(observation[0]["content"])["status"] == "cancelled"
    assert (reward, terminated, info["metrics"]["tool_calls"]) == (0.0, False, 1.0)
    observation, reward, terminated, _, info = play(env, "It is cancelled.")
    assert (observation, reward, terminated, info["status"]) == ((), 1.0, True, "finished")
    wanted = {"success": 1.0, "database_equal": 1.0, "outputs_said": 1.0}
    assert info["metrics"] == {"tool_calls": 0.0, "tool_errors": 0.0} | wanted


@pytest.mark.parametrize(
    ("turns", "equal", "said"),
    [
        ((CANCEL, "Done.", "Done."), 1.0, 0.0),
        (("5.50", "5.50"), 0.0, 1.0),
        ((CANCEL, {"name": "think", "kwargs": {"thought": "5.50"}}, "Done.", "Done."), 1.0, 0.0),
        ((CANCEL, "It was 5.50.", "Bye."), 1.0, 1.0),
    ],
)
def test_both_halves_of_the_reward_are_counted(folder, turns, equal, said):
    env = RetailEnv(path=str(folder), correct_reward=2.0, wrong_reward=-1.0)
    env.reset(options={"index": 0})
    _, reward, terminated, _, info = play(env, *turns)
    assert terminated
    assert (info["metrics"]["database_equal"], info["metrics"]["outputs_said"]) == (equal, said)
    assert reward == (2.0 if equal and said else -1.0)


def test_the_users_last_words_are_in_the_conversation_without_the_mark(folder):
    env = Talk(path=str(folder))
    assert env.reset(options={"index": 1})[0][1]["content"] == "Hello."
    assert play(env, "Yes?")[0] == ({"role": "user", "content": "Go on."},)
    observation, _, terminated, _, _ = play(env, "5.50")
    assert (observation, terminated) == (({"role": "user", "content": "Bye."},), True)


def test_a_user_who_leaves_at_once_is_an_error_of_the_environment(folder):
    env = Talk(path=str(folder))
    env.lines = (f" {STOP} hello",)
    with pytest.raises(RuntimeError, match="left without a word"):
        env.reset(options={"index": 0})


def test_a_transfer_ends_the_episode_and_only_a_valid_one(folder):
    env = RetailEnv(path=str(folder))
    env.reset(options={"task": TASK | {"outputs": []}})
    result = play(env, CANCEL, {"name": "transfer_to_human_agents", "kwargs": {}})
    assert (result[2], result[4]["metrics"]["tool_errors"]) == (False, 1.0)
    result = play(env, {"name": "transfer_to_human_agents", "kwargs": {"summary": "?"}})
    assert (result[0][0]["content"], result[1:3]) == ("Transfer successful", (1.0, True))
    env.reset(options={"index": 0})
    result = play(env, {"name": "think", "kwargs": {"thought": "Transfer successful"}})
    assert not result[2]


def test_one_call_a_turn_is_executed(folder):
    env = RetailEnv(path=str(folder))
    env.reset(options={"index": 0})
    both = format_hermes("think", {"thought": ""}) + format_hermes(CANCEL["name"], CANCEL["kwargs"])
    observation, _, _, _, info = env.step(both)
    assert observation[1]["content"] == "Error: 2 calls in one turn, only the first 1 were executed"
    assert info["metrics"]["tool_errors"] == 1.0
    assert env.database.changes() == {}


def test_endless_calls_are_truncated_without_reward(folder):
    env = RetailEnv(path=str(folder), max_turns=3)
    env.reset(options={"index": 0})
    _, reward, terminated, truncated, info = play(env, CANCEL, CANCEL, CANCEL)
    assert (reward, terminated, truncated, info["status"]) == (0.0, False, True, "truncated")
    assert "success" not in info["metrics"]


def test_every_episode_starts_from_the_same_database(folder):
    env, other = RetailEnv(path=str(folder)), RetailEnv(path=str(folder))
    env.reset(options={"index": 0})
    other.reset(options={"index": 0})
    play(env, CANCEL)
    assert other.database.changes() == {}
    before = env.database
    env.reset(options={"index": 0})
    assert env.database.read("orders", "#3")["status"] == "pending"
    assert env.database is not before


def test_turns_may_run_in_different_threads(folder):
    env = RetailEnv(path=str(folder))
    found = []
    for action in (lambda: env.reset(options={"index": 0}), lambda: play(env, CANCEL)):
        thread = threading.Thread(target=lambda do=action: found.append(do()))
        thread.start()
        thread.join()
    assert json.loads(found[1][0][0]["content"])["status"] == "cancelled"


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"user_id": "zoe_a_1"},
        TASK | {"actions": [{"name": "drop", "kwargs": {}}]},
        TASK | {"actions": [{"name": "think"}]},
        TASK | {"outputs": [5]},
    ],
)
def test_a_malformed_task_is_refused(folder, task):
    with pytest.raises(ValueError, match="a task"):
        RetailEnv(path=str(folder)).reset(options={"task": task})


def test_demonstration_names_the_changes_before_it_makes_them(folder):
    env = RetailEnv(path=str(folder))
    env.reset(options={"index": 0})
    messages = env.demonstration()
    roles = [message["role"] for message in messages]
    assert roles == [
        "system",
        "user",
        *["assistant", "tool"] * 3,
        "assistant",
        "user",
        *["assistant", "tool"],
        "assistant",
    ]
    assert "find_user_id_by_name_zip" in messages[2]["content"]
    assert "get_user_details" in messages[4]["content"]
    assert "get_order_details" in messages[6]["content"]
    assert "cancel pending order (order id #3, reason no longer needed)" in messages[8]["content"]
    assert messages[9]["content"] == CONFIRMATION
    assert "5.50" in messages[-1]["content"]


@pytest.mark.parametrize(
    ("actions", "outputs"),
    [
        ([], []),
        ([], ["5.50"]),
        ([CANCEL], []),
        ([{"name": "transfer_to_human_agents", "kwargs": {"summary": "?"}}], []),
        ([{"name": "transfer_to_human_agents", "kwargs": {"summary": "?"}}], ["5.50"]),
        ([CANCEL, {"name": "transfer_to_human_agents", "kwargs": {"summary": "?"}}], ["5.50"]),
        ([{"name": "get_order_details", "kwargs": {"order_id": "#1"}}], ["2"]),
        ([CANCEL | {"kwargs": {"order_id": "#9", "reason": "no longer needed"}}], ["5.50"]),
    ],
)  # fmt: skip
def test_the_expert_solves_tasks_of_every_kind(folder, actions, outputs):
    env = RetailEnv(path=str(folder))
    env.reset(options={"task": TASK | {"actions": actions, "outputs": outputs}})
    assert env.demonstration()[-1]["role"] in ("assistant", "tool")
    assert not env._running
    env.reset(options={"task": env.current_task})
    assert play(env, *env.expert_turns(env.current_task))[1:3] == (1.0, True)


# ---- the data ----------------------------------------------------------------------------------------------------


def test_missing_files_are_named_with_the_way_to_get_them(folder, tmp_path):
    (folder / "policy.md").unlink()
    (folder / "users.json").unlink()
    with pytest.raises(ConfigError) as raised:
        RetailEnv(path=str(folder))
    text = str(raised.value)
    assert text.startswith("environment.kwargs.path must be a folder with users.json, policy.md, got ")
    assert "github.com/sierra-research/tau-bench" in text
    assert "leave path out" in text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("users.json", "{"),
        ("users.json", "{}"),
        ("products.json", "{}"),
        ("orders.json", "[]"),
        ("orders.json", '{"#1": 3}'),
        ("tools.json", "[]"),
        ("tools.json", "[1]"),
    ],
)
def test_files_that_are_not_what_their_names_say_are_refused(folder, file, content):
    (folder / file).write_text(content)
    with pytest.raises(ConfigError, match="must hold the retail data of tau-bench"):
        RetailEnv(path=str(folder))


def test_a_tool_with_another_parameter_is_refused(folder):
    schemas = json.loads((folder / "tools.json").read_text())
    schemas[0]["function"]["parameters"]["properties"]["order_id"]["type"] = "integer"
    (folder / "tools.json").write_text(json.dumps(schemas))
    with pytest.raises(ConfigError, match="tool cancel_pending_order must take"):
        RetailEnv(path=str(folder))


@pytest.mark.parametrize("content", ["{", "3", "[{}]", "[]", json.dumps([TASK | {"outputs": None}])])
def test_malformed_tasks_are_refused_with_their_file(folder, content):
    (folder / "tasks_train.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tasks_file must .*tasks_train\.json"):
        RetailEnv(path=str(folder))


def test_splits_are_files(folder):
    assert RetailEnv(path=str(folder), split="heldout").num_tasks == 1
    with pytest.raises(ConfigError, match="tasks_file must be given for split ood"):
        RetailEnv(path=str(folder), split="ood")
    assert RetailEnv(path=str(folder), split="ood", tasks_file="tasks_dev.json").num_tasks == 1
    with pytest.raises(ConfigError, match="tasks_file must be a file"):
        RetailEnv(path=str(folder), tasks_file="tasks_test.json")


def test_tasks_of_a_file_without_a_path_are_refused():
    with pytest.raises(ConfigError, match="tasks_file needs path"):
        RetailEnv(tasks_file="tasks_test.json")


# ---- the generated shop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SHARES)
def test_generated_tasks_are_solved_by_their_reference_actions_none_of_which_fails(split):
    env = RetailEnv(split=split)
    used = set()
    for index in range(60):
        task = env.task(index)
        assert task["actions"] or task["outputs"]
        desk = Desk(Database(env.dataset.template))
        assert not [answer for answer in desk.call_all(task["actions"]) if answer.startswith("Error: ")]
        used |= {action["name"] for action in task["actions"]}
        env.reset(options={"task": task})
        assert play(env, *env.expert_turns(env.current_task))[1:3] == (1.0, True)
        env.reset(options={"task": task})
        assert play(env, "No.", *(["No."] if task["actions"] else []))[1:3] == (0.0, True), (
            "nothing done, nothing earned"
        )
    assert len(used) == 6, "every way to change an order"


def test_what_a_generated_demonstration_says_was_read_before():
    env = RetailEnv()
    for index in range(40):
        env.reset(options={"index": index})
        messages, read = env.demonstration(), ""
        for message in messages:
            if message["role"] == "assistant" and "<tool_call>" in message["content"]:
                arguments = json.loads(message["content"].split("\n")[1])["arguments"]
                values = [v for value in arguments.values() for v in (value if isinstance(value, list) else [value])]
                assert all(value in read for value in values if value not in ("no longer needed", "ordered by mistake"))
            read += message["content"]
        for output in env.current_task["outputs"]:
            assert float(output) in [
                payment["amount"]
                for message in messages
                if message.get("name") == "get_order_details"
                for payment in json.loads(message["content"])["payment_history"]
            ]


def test_the_generated_shop_is_the_same_in_every_process():
    program = (
        "import hashlib, json\nfrom envs.retail.environment import RetailEnv\n"
        "env = RetailEnv()\n"
        "print(hashlib.sha256(json.dumps([env.task(i) for i in range(5)]).encode() + env.dataset.template).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONPATH": ".", "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(runs) == 1


def test_the_generated_shop_has_tau_benchs_form():
    tables = generated.generated_tables()
    assert (len(tables["users"]), len(tables["orders"]), len(tables["products"])) == (40, 140, 10)
    for order in tables["orders"].values():
        assert set(order) == set(TABLES["orders"]["#1"])
        assert order["order_id"] in tables["users"][order["user_id"]]["orders"]
        for item in order["items"]:
            variant = tables["products"][item["product_id"]]["variants"][item["item_id"]]
            assert (item["price"], item["options"]) == (variant["price"], variant["options"])
    for user in tables["users"].values():
        assert set(user) == set(TABLES["users"]["zoe_a_1"])
    assert {order["status"] for order in tables["orders"].values()} == {
        "pending",
        "delivered",
        "processed",
        "cancelled",
    }
    assert generated_tasks.WISHES.keys() <= {order["status"] for order in tables["orders"].values()}


def test_too_many_failed_calls_end_an_episode_without_reward_even_where_the_database_is_right():
    env = RetailEnv(max_tool_errors=2)
    env.reset(options={"task": {**env.task(0), "actions": [], "outputs": []}})
    call = env.write_call("get_order_details", {"order_id": "#none"})
    assert env.step(call)[2] is False
    _, reward, terminated, _, info = env.step(call)
    assert (reward, terminated, info["status"]) == (0.0, True, "tool_error")
    env.close()
