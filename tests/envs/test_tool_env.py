from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from envs import ToolEnv, check_environment, tool
from envs.tool_calls import format_hermes
from envs.tools import tools_of


class Till(ToolEnv):
    """Add amounts up; the total is the answer."""

    def sample_task(self, rng):
        return {"amounts": rng.integers(1, 50, size=3).tolist()}

    def begin(self, task):
        self.total = 0

    def first_messages(self, task):
        return f"Add up {task['amounts']}."

    @tool
    def add(self, amount: int, times: int = 1) -> int:
        """Add an amount to the total.

        Args:
            amount: what to add.
            times: how often.
        """
        self.total += amount * times
        return self.total

    @tool
    def receipt(self) -> dict:
        """Print the receipt."""
        return {"total": self.total, "paid": None, "währung": "€"}

    @tool
    def fail(self, kind: str) -> str:
        """Raise an error."""
        raise {"key": KeyError, "empty": RuntimeError, "deep": RecursionError}[kind](*(["x"] if kind == "key" else []))

    @tool
    def strange(self) -> object:
        """Return what is no JSON."""
        return object()

    def finish(self, text):
        return float(text == str(sum(self.current_task["amounts"])))

    def expert_turns(self, task):
        return ["".join(format_hermes("add", {"amount": a}) for a in task["amounts"]), str(sum(task["amounts"]))]


def answers(*calls, **kwargs):
    """Play one turn of calls; return the contents of the tool messages and the metrics."""
    env = Till(**kwargs)
    env.reset(options={"task": {"amounts": [1, 2, 3]}})
    observation, reward, terminated, truncated, info = env.step("".join(calls))
    assert (reward, terminated, truncated) == (0.0, False, False)
    return [message["content"] for message in observation], info["metrics"]


def test_calls_of_a_turn_are_executed_in_order():
    contents, metrics = answers(
        format_hermes("add", {"amount": 3}), " then ", format_hermes("add", {"amount": 2, "times": 2})
    )
    assert contents == ["3", "7"]
    assert metrics == {"tool_calls": 2.0, "tool_errors": 0.0}


def test_results_that_are_no_text_come_as_json():
    assert answers(format_hermes("receipt", {}))[0] == ['{"total": 0, "paid": null, "währung": "€"}']


def test_a_turn_without_a_call_is_the_final_answer():
    env = Till()
    for text, reward in (("6", 1.0), ("7", 0.0), ("", 0.0)):
        env.reset(options={"task": {"amounts": [1, 2, 3]}})
        observation, given, terminated, truncated, info = env.step(text)
        assert (observation, given, terminated, truncated) == ((), reward, True, False)
        assert (info["status"], info["metrics"]) == ("finished", {"tool_calls": 0.0, "tool_errors": 0.0})


@pytest.mark.parametrize(
    ("call", "content"),
    [
        (
            format_hermes("ad", {}),
            "Error: unknown tool 'ad' (available: add, receipt, fail, strange)",
        ),
        (
            format_hermes("finish", {"text": "6"}),
            "Error: unknown tool 'finish' (available: add, receipt, fail, strange)",
        ),
        (format_hermes("add", {}), "Error: missing argument 'amount'"),
        (
            format_hermes("add", {"amount": 1, "self": 2}),
            "Error: unexpected argument 'self' (accepted: 'amount', 'times')",
        ),
        (format_hermes("add", {"amount": "1"}), "Error: argument 'amount' must be integer, got '1'"),
        (
            format_hermes("fail", {"kind": "x" * 70_000}),
            "Error: the call has 70045 characters, at most 65536 are allowed",
        ),
        ("<tool_call>{}", "Error: the call is not closed with </tool_call>"),
        (format_hermes("fail", {"kind": "key"}), "Error: 'x'"),
        (format_hermes("fail", {"kind": "empty"}), "Error: RuntimeError"),
        (format_hermes("fail", {"kind": "deep"}), "Error: RecursionError"),
        (format_hermes("strange", {}), "Error: Object of type object is not JSON serializable"),
        (format_hermes("\ud800", {}), "Error: unknown tool '?' (available: add, receipt, fail, strange)"),
    ],
)
def test_a_failed_call_goes_back_to_the_model_and_is_counted(call, content):
    contents, metrics = answers(call)
    assert contents == [content]
    assert metrics == {"tool_calls": 1.0, "tool_errors": 1.0}


def test_a_tool_that_raises_costs_only_its_own_call():
    contents, metrics = answers(
        format_hermes("add", {"amount": 1}),
        format_hermes("fail", {"kind": "empty"}),
        format_hermes("add", {"amount": 1}),
    )
    assert contents == ["1", "Error: RuntimeError", "2"]
    assert metrics == {"tool_calls": 3.0, "tool_errors": 1.0}


def test_tool_messages_name_their_tool_and_no_made_up_one():
    env = Till()
    env.reset()
    observation = env.step(format_hermes("add", {"amount": 1}) + format_hermes("made_up", {}))[0]
    assert [(message["role"], message["name"]) for message in observation] == [("tool", "add"), ("tool", "unknown")]


class Shop(ToolEnv):
    """Buy things; no answer is right."""

    def first_messages(self, task):
        return "Buy."

    @tool
    def buy(
        self,
        price: float = 1.0,
        count: int = 1,
        name: str = "",
        wrapped: bool = False,
        size: Literal["s", "l"] = "s",
        gift: str | None = None,
        colours: list[str] | None = None,
        notes: dict[str, float] | None = None,
        anything: Any = None,
    ) -> str:
        """Buy something."""
        return f"{float(price)} {count}"

    @tool
    def complain(self, about: int) -> str:
        """Complain."""
        raise ValueError(about**20)

    def finish(self, text):
        return 0.0


def shopping(*calls):
    """Play one turn of calls; return the contents of the tool messages."""
    env = Shop()
    env.reset(options={"task": {}})
    return [message["content"] for message in env.step("".join(calls))[0]]


def test_an_integer_beyond_every_float_is_a_wrong_argument_only():
    contents = shopping(format_hermes("buy", {"price": 10**400}), format_hermes("buy", {"price": 2}))
    assert contents == ["Error: argument 'price' must be number, got an integer of more than 20 digits", "2.0 1"]


def test_an_error_that_cannot_be_shown_is_named_by_its_type():
    assert shopping(format_hermes("complain", {"about": 10**400})) == ["Error: ValueError"]


def test_a_check_of_arguments_that_raises_costs_only_its_own_call(monkeypatch):
    monkeypatch.setattr("envs.tool_env.argument_error", lambda schema, arguments: {}["x"])
    assert shopping(format_hermes("buy", {})) == ["Error: 'x'"]


HUGE = st.sampled_from([10**309, -(10**400), 10**4000])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | HUGE | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PARAMETERS = tools_of(Shop)["buy"]["function"]["parameters"]["properties"]


@pytest.mark.parametrize("name", PARAMETERS)
@settings(deadline=None, max_examples=25)
@given(value=JSON)
@example(value=10**400)
@example(value={"a": [-(10**400), float("nan")]})
def test_no_argument_ends_the_episode(name, value):
    assert len(shopping(format_hermes("buy", {name: value}))) == 1


def test_calls_beyond_the_limit_of_a_turn_are_refused():
    contents, metrics = answers(*[format_hermes("add", {"amount": 1})] * 5, max_calls_per_turn=2)
    assert contents == ["1", "2", "Error: 5 calls in one turn, only the first 2 were executed"]
    assert metrics == {"tool_calls": 5.0, "tool_errors": 1.0}


def test_info_holds_the_schemas():
    names = [schema["function"]["name"] for schema in Till().reset()[1]["tools"]]
    assert names == ["add", "receipt", "fail", "strange"]


def test_tool_environment_passes_the_checker():
    check_environment(Till())


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "add", "arguments": {"amount": 1}}', "{", "6"]))
)
def test_no_turn_crashes_the_environment(pieces):
    env = Till()
    env.reset()
    text = "".join(pieces)
    observation, _, terminated, _, info = env.step(text)
    assert terminated == ("<tool_call>" not in text)
    assert len(observation) == min(info["metrics"]["tool_calls"], env.max_calls_per_turn + 1)


def test_unknown_parser_is_refused():
    with pytest.raises(
        ConfigError, match=r"environment\.kwargs\.tool_parser must be one of auto, hermes, llama3, .*, got 'xml'"
    ):
        Till(tool_parser="xml")


def test_an_environment_without_tools_is_refused():
    with pytest.raises(ValueError, match="Bare has no tools: mark at least one method with @tool"):
        type("Bare", (ToolEnv,), {})()


def test_so_many_failed_calls_end_an_episode_as_tool_error():
    env = Till(max_tool_errors=3)
    good, wrong, broken = format_hermes("add", {"amount": 1}), format_hermes("sub", {}), "<tool_call>{</tool_call>"
    for _ in range(2):  # the count begins anew with each episode
        env.reset(seed=0)
        assert env.step(wrong + good)[2:4] == (False, False)
        assert env.step(good)[2:4] == (False, False)
        observation, reward, terminated, truncated, info = env.step(broken + good + wrong)
        assert (reward, terminated, truncated, info["status"]) == (0.0, True, False, "tool_error")
        assert info["metrics"] == {"tool_calls": 3.0, "tool_errors": 2.0}
        assert len(observation) == 3, "the model's last calls are answered, for the record"
    env.reset(seed=0)
    env.step(wrong + wrong)
    assert env.step("no call")[4]["status"] == "finished"


def test_without_a_limit_on_errors_an_episode_goes_on_to_its_last_turn():
    env = Till(max_turns=5)
    env.reset(seed=0)
    ends = [env.step(format_hermes("sub", {}))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.max_tool_errors must be >= 1, got 0"):
        Till(max_tool_errors=0)
