"""tau-bench's own answers, read in place: every line of both golden files, its schemas and its tasks."""

import collections
import json
import re
import sqlite3

import pytest

import envs
from envs.retail.database import Database
from envs.retail.dataset import check_schemas, read_dataset
from envs.retail.reward import grade
from envs.retail.tools import SCHEMAS, Desk
from policies.rendering import Renderer
from tests.pico import make_tokenizer
from tests.retail_data import REASON, VARIABLE, retail_folder

PYTHONS_OWN = re.compile(r"Error: \w+\.invoke\(\) (missing \d+ required|got an unexpected keyword)")


@pytest.fixture(scope="module")
def folder():
    return retail_folder()


def lines(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def differences(template, actions, golden):
    """What a replay does otherwise than the golden line, and how many of its errors are Python's own."""
    database = Database(template)
    found, pythons = [], 0
    for action, answer, expected in zip(actions, Desk(database).call_all(actions), golden["observations"], strict=True):
        if PYTHONS_OWN.match(expected):
            pythons += 1
            if not answer.startswith(("Error: missing argument '", "Error: unexpected argument '")):
                found.append((action, answer, expected))
        elif answer != expected:
            found.append((action, answer, expected))
    if json.dumps(database.changes(), sort_keys=True) != json.dumps(golden["changed"], sort_keys=True):
        found.append(("changes", database.changes(), golden["changed"]))
    database.close()
    return found, pythons


def test_reference_actions_of_every_train_task_answer_and_change_what_tau_bench_did(folder):
    tasks, template = json.loads((folder / "tasks_train.json").read_text("utf-8")), read_dataset(str(folder)).template
    golden = lines(folder / "golden_train.jsonl")
    assert sorted(line["task"] for line in golden) == list(range(500))
    for line in golden:
        assert differences(template, tasks[line["task"]]["actions"], line) == ([], 0), line["task"]


def test_random_calls_valid_or_not_answer_and_change_what_tau_bench_did(folder):
    template, golden = read_dataset(str(folder)).template, lines(folder / "golden_calls.jsonl")
    assert len(golden) == 300
    results = [differences(template, line["calls"], line) for line in golden]
    assert [found for found, _ in results if found] == []
    called = collections.Counter(call["name"] for line in golden for call in line["calls"])
    assert set(called) == set(SCHEMAS), "all 16 tools"
    assert sum(pythons for _, pythons in results) == 26, "few enough that the exception hides nothing"


def test_schemas_name_the_same_tools_and_parameters(folder):
    schemas = json.loads((folder / "tools.json").read_text("utf-8"))
    check_schemas(schemas)
    assert len(schemas) == 16
    info = envs.make("rejuvenate/Retail-v0", {"path": str(folder)}).reset(options={"index": 0})[1]
    assert info["tools"] == schemas, "the model sees tau-bench's own descriptions"


@pytest.mark.parametrize(("split", "tasks"), [("train", 500), ("heldout", 20)])
def test_the_expert_solves_every_task_and_only_its_own_actions_do(folder, split, tasks):
    env = envs.make("rejuvenate/Retail-v0", {"path": str(folder), "split": split}).unwrapped
    assert env.num_tasks == tasks
    template = env.dataset.template
    for index in range(tasks):
        env.reset(options={"index": index})
        for text in env.expert_turns(env.current_task):
            _, reward, terminated, _, info = env.step(text)
        assert (reward, terminated, info["metrics"]["success"]) == (1.0, True, 1.0), index
        if env.database.changes():
            untouched = Database(template)
            actions = env.current_task["actions"]
            assert not grade(untouched, [], template, actions, []).solved, "doing nothing does not solve it"


def test_our_checker_is_clean_on_the_data(folder):
    envs.check_environment(envs.make("rejuvenate/Retail-v0", {"path": str(folder)}))


def test_demonstrations_train_on_the_assistants_turns_only(folder):
    env = envs.make("rejuvenate/Retail-v0", {"path": str(folder)}).unwrapped
    renderer = Renderer(make_tokenizer())
    for index in range(10):
        _, info = env.reset(options={"index": index})
        messages = env.demonstration()
        token_ids, mask = renderer.training_example(messages, info["tools"])
        trained = [token for token, use in zip(token_ids, mask, strict=True) if use]
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        assert renderer.tokenizer.decode(trained) == "".join(f"{text}<eos>" for text in said)
        calls = [text for text in said if '"name": "' in text]
        names = [action["name"] for action in env.current_task["actions"]]
        assert [name for name in names if any(f'"name": "{name}"' in call for call in calls)] == names
        assert "None" not in said


def test_the_data_are_read_from_the_variables_folder_or_missed_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="tau-bench's retail data are missing") as skipped:
        retail_folder()
    assert str(skipped.value) == REASON
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="tau-bench's retail data are missing"):
        retail_folder()
    (tmp_path / "tau_bench_retail").mkdir()
    assert retail_folder() == tmp_path / "tau_bench_retail"


def test_the_records_are_in_sqlite(folder):
    connection = sqlite3.connect(":memory:")
    connection.deserialize(read_dataset(str(folder)).template)
    counts = [
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("users", "orders", "products")
    ]
    assert counts == [500, 1000, 50]
