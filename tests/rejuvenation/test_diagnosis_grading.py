from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.errors import ConfigError
from rejuvenation.diagnostics import grading
from rejuvenation.diagnostics.asked import Asked
from rejuvenation.diagnostics.grading import Grader, final_answer, same
from rejuvenation.diagnostics.prompts import load_prompts, prompts_of
from rejuvenation.pairs import load_pairs
from tests.rejuvenation.test_calibration_pairs import text, tokenizer_dir, write

__all__ = ["tokenizer_dir"]  # the fixture


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where math-verify is not installed."""
    monkeypatch.setattr(grading, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("She makes 9 * 2 = 18.\n#### $1,018.", "1018"),
        ("first #### 1 then #### 2\nmore 3", "2"),
        (r"so \boxed{1} or \boxed{\frac{1}{2}} and 7", r"\frac{1}{2}"),
        (r"\boxed{3} #### 4", "4"),
        (r"#9 \boxed{3}", "3"),
        ("12+7=19;19-5=14#14", "14"),
        ("12+7:19 19-5:-14.", "-14"),
        ("it costs 1,234.50 dollars", "1234.50"),
        ("#x", "x"),
        ("nothing here", None),
        ("ends with #", None),
    ],
)
def test_final_answer_is_read_by_the_first_mark_that_a_text_has(response: str, answer: str | None) -> None:
    assert final_answer(response) == answer


def test_with_a_marker_nothing_else_counts() -> None:
    assert final_answer("1+1:2. 3", "#") is None
    assert final_answer("1+1=2#2", "#") == "2"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [("14", "14", True), ("2.50", "2.5", True), ("14", "41", False), ("x", "y", False), ("-0", "0", True)],
)
def test_answers_are_equal_as_text_or_as_numbers(one: str, other: str, equal: bool) -> None:
    assert same(one, other) is equal


def test_grader_compares_with_the_answer_of_its_prompt() -> None:
    grader = Grader(["14", "x"])
    assert [grader(0, "1#14"), grader(0, "#15"), grader(1, "#x"), grader(1, "none")] == [1.0, 0.0, 1.0, 0.0]
    assert grader.name == "exact match of the final answer"
    assert Grader(["1"], "#").name == "exact match of what follows the last '#'"


def test_math_verify_decides_where_it_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    stand_in = SimpleNamespace(parse=lambda text: text, verify=lambda *both: calls.append(both) or "1/2" in both[0])
    monkeypatch.setitem(sys.modules, "math_verify", stand_in)
    monkeypatch.setattr(grading, "find_spec", lambda name: name == "math_verify" or None)
    grader = Grader(["1/2", "3"])
    assert (grader(0, "#0.5"), grader(1, "#4"), grader(1, "#3")) == (1.0, 0.0, 1.0)
    assert calls == [("$1/2$", "$0.5$"), ("$3$", "$4$")], "the reference first; equal text needs no package"
    assert grader.name.startswith("math-verify")


def test_rows_of_prompts_come_in_four_forms(tmp_path: Path, tokenizer_dir: Path) -> None:
    turns = [{"role": "user", "content": "3"}, {"role": "assistant", "content": "4=5"}]
    data = write(
        tmp_path / "prompts.jsonl",
        {"prompt": "1+2=", "answer": "3"},
        {"question": "1+1=", "answer": "1+1 is 2\n#### 2"},  # GSM8K
        {"messages": turns},
        {"messages": turns[:1], "answer": 7},
        "",
        {"prompt": "8"},
    )
    prompts = load_prompts(data, tokenizer_dir)
    assert [text(tokenizer_dir, prompt.token_ids) for prompt in prompts] == [
        "<u>1+2=<end>\n<a>",
        "<u>1+1=<end>\n<a>",
        "<u>3<end>\n<a>",
        "<u>3<end>\n<a>",
        "<u>8<end>\n<a>",
    ]
    assert [prompt.answer for prompt in prompts] == ["3", "2", "5", "7", None]


def test_malformed_row_names_file_and_line(tmp_path: Path, tokenizer_dir: Path) -> None:
    data = write(tmp_path / "prompts.jsonl", {"prompt": "1", "answer": "1"}, {"text": "2"})
    with pytest.raises(ValueError, match=r"prompts.jsonl, line 2: expected"):
        load_prompts(data, tokenizer_dir)
    with pytest.raises(ConfigError, match="--prompts must be an existing JSONL file"):
        load_prompts(tmp_path / "nowhere.jsonl", tokenizer_dir)


def test_calibration_responses_give_the_answers_where_no_prompts_are_given(tmp_path: Path, tokenizer_dir: Path) -> None:
    data = write(tmp_path / "data.jsonl", {"prompt": "1+2=", "response": "1+2=3"}, {"prompt": "4", "response": "ok"})
    pairs = load_pairs(data, tokenizer_dir)
    found = prompts_of(pairs, tokenizer_dir)
    assert [(prompt.token_ids, prompt.answer) for prompt in found] == [
        (pairs[0].prompt_ids, "3"),
        (pairs[1].prompt_ids, None),
    ]
    asked = Asked.of(tokenizer_dir, data, None, None, most=1)
    assert len(asked.prompts) == 1
    assert asked.graded_by == "graded by exact match of the final answer; 1 of 2 prompts have an answer"


def test_fewer_prompts_asked_than_there_are_is_said(tmp_path: Path, tokenizer_dir: Path) -> None:
    data = write(tmp_path / "prompts.jsonl", *({"prompt": str(n), "answer": "1"} for n in range(5)))
    asked = Asked.of(tokenizer_dir, None, data, None, most=3)
    assert (
        asked.graded_by
        == "graded by exact match of the final answer; 5 of 5 prompts have an answer, 3 of them are asked"
    )


def test_prompts_without_answers_are_sampled_from_but_not_graded(tmp_path: Path, tokenizer_dir: Path) -> None:
    asked = Asked.of(
        tokenizer_dir, None, write(tmp_path / "prompts.jsonl", {"prompt": "1"}, {"prompt": "2"}), None, most=9
    )
    assert (len(asked.prompts), asked.grader) == (2, None)
    assert asked.graded_by == "nothing is graded: no prompt has an answer"
