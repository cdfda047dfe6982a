import json
import warnings
from decimal import Decimal

import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from configs.errors import ConfigError
from envs.question_answer import QuestionAnswerEnv
from envs.verifiers import number_after

ID = "envs.question_answer:QuestionAnswerEnv"


@pytest.fixture
def path(tmp_path):
    rows = [
        {"question": f"What is {n} + 1?", "answer": f"{n}+1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1:,}"} for n in ROWS
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return str(file)


ROWS = range(990, 1090)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 72", "72"),
        ("so 1\n#### 1\n#### $1,018.", "1018"),
        ("####-3.50\nThat is all.", "-3.5"),
        ("#### 20%", "20"),
        ("72", None),
        ("####", None),
        ("#### about 72", None),
        ("#### 7 2", None),
        ("#### 1e5", None),
        ("#### " + "9" * 5000, None),
    ],
)
def test_number_after_the_last_marker(text, number):
    assert number_after(text) == (None if number is None else Decimal(number))


@settings(deadline=None)
@given(st.text())
def test_no_text_crashes_the_verifier(text):
    number_after("####" + text)


def test_an_episode(path):
    env = QuestionAnswerEnv(path=path, instruction="Answer after ####.")
    observation, info = env.reset(options={"index": 10})
    assert observation == ({"role": "user", "content": "What is 1000 + 1?\nAnswer after ####."},)
    assert info["task"] == {"question": "What is 1000 + 1?", "answer": "1000+1 = <<1000+1=1001>>1001\n#### 1,001"}
    assert env.step("It is 1001.\n#### 1001")[1:3] == (1.0, True)
    for wrong in ("#### 1002", "1001", "#### 1001 or 1002", ""):
        env.reset(options={"index": 10})
        assert env.step(wrong)[1:3] == (0.0, True)


def test_demonstration_leaves_the_calculator_out(path):
    env = QuestionAnswerEnv(path=path)
    env.reset(options={"index": 0})
    assert env.demonstration()[-1] == {"role": "assistant", "content": "990+1 = 991\n#### 991"}


def test_both_checkers_are_clean(path):
    env = envs.make(ID, {"path": path})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    envs.check_environment(env)


def test_one_file_can_be_split_by_hash(path):
    questions = [
        {env.task(index)["question"] for index in range(env.num_tasks)}
        for env in (
            QuestionAnswerEnv(path=path, split=split, split_by_hash=True)
            for split in ("train", "heldout", "ood", "tuning")
        )
    ]
    assert QuestionAnswerEnv(path=path).num_tasks == 100
    assert sum(len(part) for part in questions) == len(set().union(*questions)) == 100
    assert len(questions[0]) > 50


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "must hold 'question' and 'answer' on line 2"),
        ('{"question": "x"}', "must hold 'question' and 'answer' on line 2"),
        ("[1]", "must hold 'question' and 'answer' on line 2"),
        ('{"question": "x", "answer": "12"}', "must have an answer that ends in `#### number` on line 2"),
        ('{"question": "x", "answer": 12}', "must have an answer that ends in `#### number` on line 2"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    file = tmp_path / "broken.jsonl"
    file.write_text('{"question": "x", "answer": "#### 1"}\n' + line)
    with pytest.raises(ConfigError) as error:
        QuestionAnswerEnv(path=str(file))
    assert error.value.field == "environment.kwargs.path"
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.path must be a file, got"):
        envs.make(ID, {"path": str(tmp_path / "none.jsonl")})


def test_the_file_is_needed():
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.path is needed by QuestionAnswerEnv, got None"):
        envs.make(ID)


def test_a_file_without_rows_is_refused(tmp_path):
    file = tmp_path / "empty.jsonl"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="must hold rows of split train"):
        QuestionAnswerEnv(path=str(file))


def test_a_path_may_start_at_the_home_directory(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert QuestionAnswerEnv(path="~/questions.jsonl").num_tasks == len(ROWS)


@pytest.mark.parametrize("path", ["~/none.jsonl", "~no_such_user/none.jsonl"])
def test_a_missing_file_is_named_as_it_was_given(path):
    with pytest.raises(ConfigError, match=f"must be a file, got '?{path}"):
        QuestionAnswerEnv(path=path)


def test_a_broken_line_names_the_path_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "broken_at_home.jsonl").write_text("{")
    with pytest.raises(ConfigError, match=r"on line 1 .*, got '?~/broken_at_home\.jsonl"):
        QuestionAnswerEnv(path="~/broken_at_home.jsonl")
