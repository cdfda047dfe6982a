import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.tool_calls import MAX_CALL_CHARACTERS, ToolCall, format_hermes, parse_hermes


def body(text):
    return f"<tool_call>\n{text}\n</tool_call>"


def test_worked_call():
    text = 'I look it up.\n<tool_call>\n{"name": "lookup", "arguments": {"key": "a"}}\n</tool_call>'
    assert parse_hermes(text) == [ToolCall("lookup", {"key": "a"})]


def test_several_calls_keep_their_order():
    text = body('{"name": "f"}') + " and " + body('{"arguments": {"x": [1, 2.5, null]}, "name": "g"}')
    assert parse_hermes(text) == [ToolCall("f", {}), ToolCall("g", {"x": [1, 2.5, None]})]


@pytest.mark.parametrize(
    "text", ["", "#14", "</tool_call>", "<tool_cal>", '{"name": "f"}', "<TOOL_CALL>{}</TOOL_CALL>"]
)
def test_text_without_an_opening_tag_holds_no_call(text):
    assert parse_hermes(text) == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<tool_call>", "is not closed"),
        ('<tool_call>{"name": "f"}', "is not closed"),
        (body(""), "is not valid JSON"),
        (body("{'name': 'f'}"), "is not valid JSON"),
        (body('{"name": "f"} x'), "is not valid JSON"),
        (body('{"name": "f", "arguments": {"x": NaN}}'), "NaN is no JSON value"),
        (body("[]"), 'must be a JSON object with "name"'),
        (body('{"arguments": {}}'), 'must be a JSON object with "name"'),
        (body('{"name": 3}'), 'must be a JSON object with "name"'),
        (body('{"name": "f", "arguments": [1]}'), '"arguments" must be a JSON object'),
        (body('{"name": "f", "arguments": "{}"}'), '"arguments" must be a JSON object'),
        (body("[" * 60_000), "nested too deeply"),
        (body('{"name": "' + "f" * MAX_CALL_CHARACTERS + '"}'), f"at most {MAX_CALL_CHARACTERS} are allowed"),
        (body('{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}"), "is not valid JSON"),
    ],
)
def test_malformed_calls_say_what_is_wrong(text, error):
    (call,) = parse_hermes(text)
    assert error in call.error
    assert len(call.error) < 200


def test_a_malformed_call_does_not_cost_the_next_one():
    first, second = parse_hermes(body("{") + body('{"name": "f"}'))
    assert first.error is not None
    assert second == ToolCall("f")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.text(), st.dictionaries(st.text(), _JSON, max_size=4))
def test_a_formatted_call_is_read_back(name, arguments):
    written = format_hermes(name, arguments)
    if "</tool_call>" not in json.dumps([name, arguments]):
        assert parse_hermes(f"Well: {written} so.") == [ToolCall(name, arguments)]
