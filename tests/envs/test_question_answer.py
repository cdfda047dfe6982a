import json
import logging
import sys
import warnings
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from configs.errors import ConfigError
from envs import question_answer
from envs.question_answer import QuestionAnswerEnv
from envs.verifiers import number_after
from tests.retail_data import data_folder

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
        ("{", "must hold JSON on line 2"),
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


def write(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def rewards(env, *texts):
    found = []
    for text in texts:
        env.reset(options={"index": 0})
        found.append(env.step(text)[1])
    return found


@pytest.mark.parametrize(
    ("form", "mark"),
    [("number", "#### {}"), ("math", "#### {}"), ("math", r"\boxed{{{}}}"), ("math", r"so $\boxed{{{}}}$.")],
)
def test_all_of_gsm8k_s_test_answers_are_right_and_with_the_number_changed_all_wrong(form, mark):
    env = QuestionAnswerEnv(path=str(data_folder("gsm8k", "the GSM8K data") / "test.jsonl"), form=form)
    assert env.num_tasks == 1319
    right, wrong = [], []
    for index in range(env.num_tasks):
        worked, _, number = env.task(index)["answer"].rpartition("#### ")
        value = int(number.replace(",", ""))
        gold = worked + mark.format(number)
        changed = [worked + mark.format(other) for other in (value + 1, -value - 1, f"{number}1", f"{value}.5", "")]
        for found, texts in ((right, [gold, mark.format(value)]), (wrong, changed)):
            for text in texts:
                env.reset(options={"index": index})
                found.append(env.step(text)[1])
    assert (len(right), set(right)) == (2 * 1319, {1.0})
    assert (len(wrong), set(wrong)) == (5 * 1319, {0.0})


def test_gsm8k_can_be_trained_on():
    folder = data_folder("gsm8k", "the GSM8K data")
    for form in ("number", "math"):
        envs.check_environment(envs.make(ID, {"path": str(folder / "test.jsonl"), "form": form}))
    assert QuestionAnswerEnv(path=str(folder / "train.jsonl")).num_tasks == 7473


def test_mathematics_with_boxed_answers_in_columns_of_other_names(tmp_path):
    row = {"problem": "Half of 1?", "solution": r"So \boxed{1} is halved: $\boxed{\frac{1}{2}}$."}
    path = write(tmp_path / "math.jsonl", row)
    env = envs.make(ID, {"path": path, "form": "math", "question_field": "problem", "answer_field": "solution"})
    assert env.reset(seed=0)[0][0]["content"].startswith("Half of 1?\nThink step by step")
    right = [r"\boxed{\dfrac{1}{2}}", r"\boxed{0.5}", "#### 1/2"]
    wrong = [r"\boxed{1}", "0.5", r"\boxed{\frac{1}{2}", r"\boxed{2} \boxed{}", ""]
    assert rewards(env, *right, *wrong) == [1.0] * 3 + [0.0] * 5
    envs.check_environment(env)


MATH = [
    (r"The area is $\boxed{\frac{\pi}{4}}$.", r"\pi/4", r"\pi/3"),
    (r"We get $\boxed{x^2+2x+1}$.", "(x+1)^2", "(x+2)^2"),
    (r"Thus $\boxed{\left(-\infty, 3\right]}$.", r"(-\infty,3]", r"(-\infty,3)"),
    (r"So $\boxed{\{1, 2, 3\}}$.", r"\{3,2,1\}", r"\{3,2\}"),
    (r"It is $\boxed{2\sqrt{3}}$.", r"\sqrt{12}", r"\sqrt{13}"),
    (
        r"$\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}$",
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"\begin{pmatrix}2\\1\end{pmatrix}",
    ),
    (r"He earns $\boxed{\$1{,}250}$.", "1250", "1251"),
    (r"Of course \boxed{\text{Monday}}.", "Monday", "Tuesday"),
]
"""Solutions in the form of MATH, the same answer in another form, and another answer."""


@pytest.mark.parametrize(("solution", "same", "other"), MATH)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_answers_of_math_are_graded_by_value(tmp_path, kind, solution, same, other):
    pytest.importorskip("math_verify")
    row = {"problem": "What?", "solution": solution, "level": "Level 5"}
    file = tmp_path / f"math.{kind}"
    if kind == "jsonl":
        write(file, row)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([row]), file)
    env = QuestionAnswerEnv(path=str(file), form="math", question_field="problem", answer_field="solution")
    said = [rf"So \boxed{{{same}}}.", f"#### {same}", solution, rf"\boxed{{{other}}}", f"#### {other}"]
    assert rewards(env, *said) == [1.0] * 3 + [0.0] * 2


@pytest.mark.parametrize(("answer", "said"), [("72", "72"), (72, "72.0"), ("1,018", "1018")])
def test_a_bare_answer_is_mathematics_too(tmp_path, answer, said):
    env = QuestionAnswerEnv(path=write(tmp_path / "bare.jsonl", {"question": "?", "answer": answer}), form="math")
    assert rewards(env, rf"\boxed{{{said}}}", said) == [1.0, 0.0]
    envs.check_environment(env)


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        (["red", "blue", "green"], 1),
        (["red", "blue", "green"], "b"),
        (["red", "blue", "green"], "blue"),
        ({"text": ["red", "blue", "green"], "label": ["1", "2", "3"]}, "2"),
    ],
)
def test_multiple_choice_in_the_forms_of_its_answers(tmp_path, choices, answer):
    path = write(tmp_path / "choice.jsonl", {"question": "Sky?", "choices": choices, "answer": answer})
    env = QuestionAnswerEnv(path=path, form="choice")
    observation, _ = env.reset(seed=0)
    assert observation[0]["content"].startswith("Sky?\nA. red\nB. blue\nC. green\nThink step by step")
    assert rewards(env, "#### B", r"\boxed{(b)}", "#### B.", "#### A", "B", "#### blue") == [1.0] * 3 + [0.0] * 3
    envs.check_environment(env)


@pytest.mark.parametrize(("choices", "answer"), [(["red"], 0), (["red", "blue"], 2), (["red", "blue"], "C"), (3, 0)])
def test_a_row_that_is_no_multiple_choice_is_named(tmp_path, choices, answer):
    path = write(tmp_path / "choice.jsonl", {"question": "Sky?", "choices": choices, "answer": answer})
    with pytest.raises(ConfigError, match=r"two to 26 options, and an answer .* on line 1"):
        QuestionAnswerEnv(path=path, form="choice")


@pytest.mark.parametrize(("library", "path"), [("pyarrow", "rows.parquet"), ("datasets", "hf:owner/name")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, library, path):
    (tmp_path / "rows.parquet").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"needs the package {library} to be read.* extra `data`"):
        QuestionAnswerEnv(path=path)


def test_parquet_gives_what_json_lines_give(path, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert QuestionAnswerEnv(path=str(tmp_path / "rows.parquet")).rows == QuestionAnswerEnv(path=path).rows
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(ConfigError, match="must be a Parquet file"):
        QuestionAnswerEnv(path=str(tmp_path / "broken.parquet"))


def test_a_hugging_face_dataset_gives_what_json_lines_give(path, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text(Path(path).read_text().strip() + "\n")
    found = QuestionAnswerEnv(path=f"hf:{tmp_path / 'data'}", dataset_split="test")
    assert found.rows == QuestionAnswerEnv(path=path).rows
    with pytest.raises(ConfigError, match="split 'other' that can be loaded"):
        QuestionAnswerEnv(path=f"hf:{tmp_path / 'data'}", dataset_split="other")


def test_mathematics_without_math_verify_warns_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    question_answer._say_how_it_is_graded.cache_clear()
    path = write(tmp_path / "rows.jsonl", {"question": "?", "answer": "72"})
    for form in ("math", "math"):
        QuestionAnswerEnv(path=path, form=form)
    question_answer._say_how_it_is_graded.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "math-verify is not installed: answers that are not equal texts or numbers count as wrong. "
        "pip install 'rejuvenate-rl[data]'."
    ]


def test_the_tries_of_the_hub_are_not_logged(monkeypatch, caplog):
    def load_dataset(*_, **__):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ConfigError, match="no network"):
        QuestionAnswerEnv(path="hf:owner/name")
    assert caplog.records == []
