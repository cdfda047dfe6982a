import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.text_arguments import typed
from envs.tool_calls import FORMATS, MAX_CALL_CHARACTERS, PARSERS, ToolCall, form_of
from envs.tools import schema_of


def as_text(name, **arguments):
    return ToolCall(name, arguments, as_text=True)


F = ToolCall("f", {})
READ = [
    ("hermes", 'So:\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>', [ToolCall("f", {"x": 1})]),
    ("qwen", '<tool_call>{"name": "f"}</tool_call>' * 2, [F, F]),
    (
        "qwen3_coder",
        "I go.\n<tool_call>\n<function=move>\n<parameter=to>\nb4\n</parameter>\n<parameter=why>\n two\nlines\n\n"
        "</parameter>\n</function>\n</tool_call>",
        [as_text("move", to="b4", why=" two\nlines\n")],
    ),
    (
        "qwen3_coder",
        "<tool_call><function=f></function></tool_call>\n<tool_call><function=g><parameter=x>1</parameter></function>"
        "</tool_call>",
        [as_text("f"), as_text("g", x="1")],
    ),
    ("qwen3_coder", "<function=f>\n<parameter=x>\n\n</parameter>\n</function>", [as_text("f", x="")]),
    ("qwen3_coder", "<function=f></function></tool_call>", [as_text("f")]),
    ("qwen3_coder", "the <parameter=x> of </function>", []),
    ("llama3", '{"name": "f", "parameters": {"x": [1, null]}}', [ToolCall("f", {"x": [1, None]})]),
    ("llama3", ' <|python_tag|>{"name": "f", "parameters": {}}; {"name": "f"}\n', [F, F]),
    ("llama3", '{"name": "f"}\n{"name": "g", "arguments": {"x": "}{"}}', [F, ToolCall("g", {"x": "}{"})]),
    ("llama3", '{"answer": 3}', []),
    ("llama3", 'It is {"name": "f"}', []),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}, "id": "abc"}]', [ToolCall("f", {"x": 1})]),
    ("mistral", 'Well.[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g"}]', [F, ToolCall("g")]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{"x": "[1]"}', [F, ToolCall("g", {"x": "[1]"})]),
    (
        "mistral",
        '[TOOL_CALLS]f[CALL_ID]a1b2c3d4e[ARGS]{"x": 1}[TOOL_CALLS]f[CALL_ID]a1b2[ARGS]{}',
        [ToolCall("f", {"x": 1}, call_id="a1b2c3d4e"), F],
    ),
    ("mistral", '[TOOL_CALLS][{"name": "f", "id": "a1b2c3d4e"}]', [ToolCall("f", call_id="a1b2c3d4e")]),
    ("mistral", '[TOOL_CALLS]f{"x": {"y": 1}}', [ToolCall("f", {"x": {"y": 1}})]),
    ("mistral", '[{"name": "f"}]', []),
    ("pythonic", "[f()]", [F]),
    (
        "pythonic",
        """[move(to="b4", fast=True, why=None), shop.buy(n=-1.5e3, list=['a', "it's"], of={'k': [1, {}]})]""",
        [
            ToolCall("move", {"to": "b4", "fast": True, "why": None}),
            ToolCall("shop.buy", {"n": -1500.0, "list": ["a", "it's"], "of": {"k": [1, {}]}}),
        ],
    ),
    (
        "pythonic",
        r'<|python_start|>[f(x="a\n\"b\" \\n \x41\u00e9\d\U0001f600\Uffffffff")]<|python_end|>',
        [ToolCall("f", {"x": 'a\n"b" \\n Aé\\d😀\\Uffffffff'})],
    ),
    ("pythonic", "f(x=1)", []),
    ("pythonic", "[1, 2]", []),
    ("pythonic", "See [here](there).", []),
    ("react", 'Thought: hm\nAction: f\nAction Input: {"x": 1}', [ToolCall("f", {"x": 1})]),
    ("react", 'Action: f\nAction Input: {\n  "x": 1\n}\nObservation: made up', [ToolCall("f", {"x": 1})]),
    ("react", "Action: f\nAction Input: cats\nand dogs\n\nThought: so", [as_text("f", **{"": "cats\nand dogs"})]),
    ("react", "Action: f\nAction Input:\nAction: g\n  Action Input: 3\n", [F, as_text("g", **{"": "3"})]),
    ("react", "Thought: I know.\nFinal Answer: 7", []),
]


@pytest.mark.parametrize(("form", "text", "calls"), READ)
def test_calls_are_read(form, text, calls):
    assert PARSERS[form](text) == calls


MALFORMED = [
    ("qwen3_coder", "<tool_call>", "not closed with </tool_call>"),
    ("qwen3_coder", '<tool_call>{"name": "f"}</tool_call>', "holds no <function=name>"),
    ("qwen3_coder", "<function=f>", "not closed with </function>"),
    ("qwen3_coder", "<function=f</function>", "<function=name is not closed with >"),
    ("qwen3_coder", "<function=f><parameter=x>1</function>", "<parameter=x is not closed with </parameter>"),
    ("qwen3_coder", "<function=f><parametr=x>1</parametr></function>", "text outside of <parameter=name>"),
    ("qwen3_coder", "<function=f><parameter=x>1</parameter>2</function>", "text outside of <parameter=name>: '2'"),
    ("llama3", "<|python_tag|>", "the call is empty"),
    ("llama3", "<|python_tag|>print(1)", "is not valid JSON"),
    ("llama3", '{"name": "f", "parameters": {"x": NaN}}', "NaN is no JSON value"),
    ("llama3", '{"name": "f"', "is not valid JSON"),
    ("llama3", '{"name": "f", "parameters": [1]}', '"parameters" must be a JSON object'),
    ("llama3", '{"name": 1}', 'a JSON object with "name" (a string) and "parameters"'),
    ("llama3", '{"name": ' + "[" * 60_000, "nested too deeply"),
    ("mistral", "[TOOL_CALLS]", "is not valid JSON"),
    ("mistral", "[TOOL_CALLS][]", "the list of calls is empty"),
    ("mistral", "[TOOL_CALLS][1]", 'must be a JSON object with "name"'),
    ("mistral", '[TOOL_CALLS][{"name": "f"}] and so on', "is not valid JSON"),
    ("mistral", "[TOOL_CALLS]f[ARGS]", "is not valid JSON"),
    ("mistral", "[TOOL_CALLS]f[ARGS][1]", '"arguments" must be a JSON object'),
    ("pythonic", "[f(x=1)", "no list of calls with named literal arguments"),
    ("pythonic", "[f(1)]", "no list of calls with named literal arguments"),
    ("pythonic", "[f(x=y)]", "cannot be read at 'y)]'"),
    ("pythonic", "[f(x=g(y=1))]", "g(...) stands where a literal must"),
    ("pythonic", "[f(x=[1)]]", "a bracket is closed that is not open"),
    ("pythonic", '[f(x="a]', "cannot be read at"),
    ("pythonic", "[f(x=" + "9" * 5000 + ")]", "Exceeds the limit"),
    ("pythonic", "[f(x=" + "[" * 60_000, "nested too deeply"),
    ("react", "Action: f", "Action Input: is missing"),
    ("react", "Action: f\nObservation: 3", "Action Input: is missing"),
    ("react", 'Action: f\nAction Input: {"x": 1', "is not valid JSON"),
    ("react", 'Action: f\nAction Input: {"x": 1} now', "is not valid JSON"),
]


@pytest.mark.parametrize(("form", "text", "error"), MALFORMED)
def test_malformed_calls_say_what_is_wrong(form, text, error):
    (call,) = PARSERS[form](text)
    assert error in call.error
    assert len(call.error) < 200


@pytest.mark.parametrize("form", PARSERS)
def test_a_huge_payload_is_refused_and_one_at_the_limit_is_not(form):
    def call(length):
        return FORMATS[form]("f", {"x": "a" * length})

    (small,) = PARSERS[form](call(MAX_CALL_CHARACTERS - 100))
    (huge,) = PARSERS[form](call(MAX_CALL_CHARACTERS))
    assert (small.error, len(small.arguments["x"])) == (None, MAX_CALL_CHARACTERS - 100)
    assert f"at most {MAX_CALL_CHARACTERS} are allowed" in huge.error
    assert huge.arguments == {}


def method(
    self, text: str, whole: int = 0, real: float = 0.0, yes: bool = False, many: list = (), of: dict = ()
) -> str:
    """Take one of each."""


ARGUMENTS = st.fixed_dictionaries(
    {"text": st.text(alphabet=st.characters(exclude_categories=["Cs"]))},
    optional={
        "whole": st.integers(),
        "real": st.floats(allow_nan=False, allow_infinity=False),
        "yes": st.booleans(),
        "many": st.lists(st.none() | st.text() | st.integers() | st.booleans(), max_size=3),
        "of": st.dictionaries(st.text(), st.integers(), max_size=3),
    },
)


@pytest.mark.parametrize("form", PARSERS)
@settings(deadline=None, max_examples=60)
@given(arguments=ARGUMENTS)
def test_a_formatted_call_is_read_back(form, arguments):
    (call,) = PARSERS[form](FORMATS[form]("f", arguments))
    assert (call.name, call.error) == ("f", None)
    assert (typed(schema_of(method), call.arguments) if call.as_text else call.arguments) == arguments


PIECES = [
    *("<tool_call>", "</tool_call>", "<function=", "f>", "</function>", "<parameter=", "x>", "</parameter>"),
    *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", "Action: f\n", "Action Input:", "\nObservation:"),
    *("[f(", "x=", ")", "]", "[", "{", "}", '"', "'", "\\", ",", ";", ":", "1", "-", "None", "\n", " ", "NaN"),
    *('{"name": "f"', '"parameters": {', '"arguments": {', "\\U0011ffff", "\ud800"),
]


@pytest.mark.parametrize("form", PARSERS)
@settings(deadline=None, max_examples=150)
@given(text=st.text() | st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_no_text_crashes_a_parser(form, text):
    calls = PARSERS[form](text)
    assert len(calls) <= len(text)
    for call in calls:
        assert isinstance(call.name, str)
        assert all(isinstance(key, str) for key in call.arguments)
        assert call.error is None or (0 < len(call.error) < 300 and call.arguments == {})
        if call.as_text:
            assert all(isinstance(value, str) for value in call.arguments.values())


BEGINNINGS = {"llama3": '<|python_tag|>{"name": "f", "parameters": ', "mistral": "[TOOL_CALLS]", "pythonic": "[f(x="}
REPEATED = [
    *("<tool_call>", "</tool_call>", "<tool_call><function=", "<function=f>", "<function=f></function>", "<parameter="),
    *("<function=f><parameter=x>", "[TOOL_CALLS]", "[TOOL_CALLS]f{", "[TOOL_CALLS]f[ARGS]", "<|python_tag|>"),
    *("[f(", "[", "{", "[]", "(", '"', '"\\', "\\", "'\\", "a", "1", "-", " ", "\n", ",", ";", "a.", "a=", "a "),
    *("Action:", "Action: f\n", "Action Input:", "Action: f\nAction Input: {", "Action Input: {\n", '{"name": "f"}'),
    *("<tool_call>" + "[" * 50, '<tool_call>{"a":"</tool_call>', "<", '{"a":', '"a\\n",'),
]


def seconds(form, beginning, piece, size):
    """CPU seconds that a parser takes, the better of two."""
    text = beginning + piece * (size // len(piece))
    taken = []
    for _ in range(2):
        start = time.process_time()
        PARSERS[form](text)
        taken.append(time.process_time() - start)
    return min(taken)


@pytest.mark.parametrize("form", sorted(set(PARSERS) - {"qwen"}))
def test_time_grows_linearly_with_the_text(form):
    beginning = BEGINNINGS.get(form, "")
    for piece in REPEATED:
        # 8 times the text: linear work takes 8 times as long, quadratic work 64 times
        for short, slack in ((8_000, 0.05), (50_000, 0.1)):
            bound = 30 * seconds(form, beginning, piece, short) + slack
            assert seconds(form, beginning, piece, 8 * short) < bound, (piece, short)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("<tool_call>\n<function=example>\n<parameter=one>", "qwen3_coder"),
        ('<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>', "hermes"),
        ("{{ '[TOOL_CALLS] [' }}", "mistral"),
        ("Use exact format: [func_name1(param1=value1), func_name2(...)]", "pythonic"),
        ("Action: the tool\nAction Input: its input", "react"),
        ('{"name": function name, "parameters": dictionary of argument name and its value}', "llama3"),
        ("{{ '<|python_tag|>' + call }}", "llama3"),
        ('[func_name1(...)] or {"name": function name, "parameters": dictionary of argument name}', "pythonic"),
        ("<function=example> alone", None),
        ("{% for message in messages %}{{ message.content }}{% endfor %}", None),
        ("", None),
    ],
)
def test_the_template_tells_the_form(template, form):
    assert form_of(template) == form
    assert form is None or form in PARSERS


def test_every_form_can_be_read_and_written():
    assert list(PARSERS) == list(FORMATS)


def test_a_list_of_many_short_values_counts_its_own_characters_only():
    text = f"[f(x=[{','.join(['1'] * 30_000)}])]"
    assert PARSERS["pythonic"](text) == [ToolCall("f", {"x": [1] * 30_000})]
