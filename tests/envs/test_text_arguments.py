from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import ToolEnv, tool
from envs.text_arguments import typed
from envs.tool_calls import FORMATS, PARSERS
from envs.tools import schema_of


def takes(
    self,
    text: str,
    whole: int = 0,
    real: float = 0.0,
    yes: bool = False,
    size: Literal["1", "l", 2] = "l",
    gift: str | None = None,
    either: int | list[int] | str = 0,
    many: list[int] = (),
    of: dict[str, float] = (),
    anything: Any = None,
) -> str:
    """Take one of each."""


SCHEMA = schema_of(takes)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("text", "5", "5"),
        ("text", '"a"', '"a"'),
        ("text", " null ", " null "),
        ("whole", " 5\n", 5),
        ("whole", "5.0", "5.0"),
        ("whole", "true", "true"),
        ("whole", "five", "five"),
        ("whole", "9" * 5000, "9" * 5000),
        ("real", "5", 5),
        ("real", "-2.5e1", -25.0),
        ("real", "NaN", "NaN"),
        ("real", "1e999", "1e999"),
        ("yes", "true", True),
        ("yes", "False", False),
        ("yes", "1", "1"),
        ("size", "1", "1"),
        ("size", "2", 2),
        ("size", "3", "3"),
        ("gift", "null", None),
        ("gift", "None", None),
        ("gift", "none", "none"),
        ("gift", "5", "5"),
        ("either", "5", 5),
        ("either", "[5]", [5]),
        ("either", '["5"]', '["5"]'),
        ("many", "[1, 2]", [1, 2]),
        ("many", "1, 2", "1, 2"),
        ("many", "[" * 50_000, "[" * 50_000),
        ("of", '{"a": 1}', {"a": 1}),
        ("anything", '{"a": [null]}', {"a": [None]}),
        ("anything", "words", "words"),
        ("made_up", "5", "5"),
        ("", "5", "5"),
    ],
)
def test_the_schema_types_a_text(name, text, value):
    found = typed(SCHEMA, {name: text})[name or "text"]
    assert (type(found), found) == (type(value), value)


class Clock(ToolEnv):
    """Two tools for calls whose arguments are texts."""

    def first_messages(self, task):
        return "Wait."

    @tool
    def wait(self, hours: int) -> str:
        """Wait."""
        return f"{hours + 1}"

    @tool
    def alarm(self, hour: int, note: str, loud: bool = False) -> str:
        """Set an alarm."""
        return f"{hour + 1} {note} {loud}"

    def finish(self, text):
        return 0.0


def contents(form, text):
    env = Clock(tool_parser=form)
    env.reset(options={"task": {}})
    observation, _, _, _, info = env.step(text)
    return [message["content"] for message in observation], info["metrics"]["tool_errors"]


@pytest.mark.parametrize(
    ("text", "answer", "errors"),
    [
        ("Action: wait\nAction Input: 3", "4", 0),
        ('Action: wait\nAction Input: {"hours": 3}', "4", 0),
        ('Action: wait\nAction Input: {"hours": "3"}', "Error: argument 'hours' must be integer, got '3'", 1),
        ("Action: wait\nAction Input: long", "Error: argument 'hours' must be integer, got 'long'", 1),
        ("Action: wait\nAction Input:", "Error: missing argument 'hours'", 1),
        ("Action: alarm\nAction Input: 7", "Error: missing argument 'hour'", 1),
        ("Action: sing\nAction Input: 7", "Error: unknown tool 'sing' (available: wait, alarm)", 1),
    ],
)
def test_a_react_input_without_names_is_the_only_parameter(text, answer, errors):
    assert contents("react", text) == ([answer], errors)


def test_qwen3_coder_parameters_are_typed_by_the_tool():
    call = (
        "<tool_call><function=alarm><parameter=hour>7</parameter><parameter=note>7</parameter>{}</function></tool_call>"
    )
    loud = "<parameter=loud>{}</parameter>"
    assert contents("qwen3_coder", call.format(loud.format("True"))) == (["8 7 True"], 0)
    wrong = "Error: argument 'loud' must be boolean, got 'yes'"
    assert contents("qwen3_coder", call.format(loud.format("yes")) + call.format("")) == ([wrong, "8 7 False"], 1)
    extra = "Error: unexpected argument 'loudly' (accepted: 'hour', 'note', 'loud')"
    assert contents("qwen3_coder", call.format("<parameter=loudly>1</parameter>")) == ([extra], 1)


@pytest.mark.parametrize("form", PARSERS)
def test_broken_missing_wrong_and_unknown_are_answered_in_every_form(form):
    def answer(name, arguments):
        return contents(form, FORMATS[form](name, arguments))

    assert answer("alarm", {"hour": 7, "note": "up", "loud": True}) == (["8 up True"], 0)
    assert answer("alarm", {"hour": 7}) == (["Error: missing argument 'note'"], 1)
    assert answer("alarm", {"hour": "x", "note": ""}) == (["Error: argument 'hour' must be integer, got 'x'"], 1)
    assert answer("sing", {}) == (["Error: unknown tool 'sing' (available: wait, alarm)"], 1)
    (huge,), errors = answer("alarm", {"hour": 7, "note": "a" * 70_000})
    assert huge.endswith("at most 65536 are allowed")
    assert errors == 1


PIECES = ["<function=wait>", "</function>", "<parameter=hours>", "</parameter>", "[", "1", "9" * 5000, "Action: wait\n"]


@pytest.mark.parametrize("form", PARSERS)
@settings(deadline=None, max_examples=40)
@given(pieces=st.lists(st.sampled_from([*PIECES, "Action Input:", "[wait(hours=", ")]", "[TOOL_CALLS]", "{", "}"])))
def test_no_turn_crashes_an_environment_of_any_form(form, pieces):
    env = Clock(tool_parser=form)
    env.reset(options={"task": {}})
    observation, _, terminated, _, info = env.step("".join(pieces))
    assert len(observation) == min(info["metrics"]["tool_calls"], env.max_calls_per_turn + 1)
    assert terminated == (not observation)
