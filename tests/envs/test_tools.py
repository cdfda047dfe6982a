from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from envs.tools import argument_error, schema_of, tool, tools_of


class Desk:
    @tool
    def book(
        self,
        name: str,
        seats: int,
        price: float = 1.5,
        window: bool = False,
        seat_class: Literal["economy", "business"] = "economy",
        extras: list[str] | None = None,
        notes: dict[str, int] = {},  # noqa: B006
        anything: Any = None,
    ) -> str:
        """Book seats.

        Only on days that end in y.

        Args:
            name: who travels,
                as in the passport.
            seats (int): how many.
            price: at most.

        Returns:
            The number of the booking.
        """
        return name

    @tool
    def cancel(self) -> str:
        """Cancel."""
        return ""

    def not_a_tool(self) -> None:
        """Stay hidden."""


def test_worked_schema():
    assert tools_of(Desk) == {
        "book": {
            "type": "function",
            "function": {
                "name": "book",
                "description": "Book seats. Only on days that end in y.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "description": "who travels, as in the passport."},
                        "seats": {"type": "integer", "description": "how many."},
                        "price": {"type": "number", "description": "at most."},
                        "window": {"type": "boolean"},
                        "seat_class": {"enum": ["economy", "business"]},
                        "extras": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
                        "notes": {"type": "object", "additionalProperties": {"type": "integer"}},
                        "anything": {},
                    },
                    "required": ["name", "seats"],
                    "additionalProperties": False,
                },
            },
        },
        "cancel": {
            "type": "function",
            "function": {
                "name": "cancel",
                "description": "Cancel.",
                "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
            },
        },
    }


def test_a_tool_is_still_an_ordinary_method():
    assert Desk().book("Ada", 1) == "Ada"


def test_subclasses_inherit_override_and_hide_tools():
    class Small(Desk):
        cancel = None

        @tool
        def book(self) -> str:
            """Book one seat."""
            return ""

        @tool
        def wait(self) -> str:
            """Wait."""
            return ""

    assert list(tools_of(Small)) == ["book", "wait"]
    assert tools_of(Small)["book"]["function"]["description"] == "Book one seat."


VALID = {"name": "Ada", "seats": 2}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"price": 2},
        {"price": 2.5, "window": True},
        {"price": 10**308},
        {"seats": 10**400},
        {"seat_class": "business"},
        {"extras": None},
        {"extras": []},
        {"extras": ["meal"]},
        {"notes": {"a": 1}},
        {"anything": [1, {"x": None}]},
    ],
)
def test_fitting_arguments_pass(extra):
    assert argument_error(tools_of(Desk)["book"], VALID | extra) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Ada"}, "missing argument 'seats'"),
        ({}, "missing argument 'name'"),
        (VALID | {"self": 1}, "unexpected argument 'self' (accepted: 'name', 'seats', 'price', 'window', "),
        (VALID | {"seats": "2"}, "argument 'seats' must be integer, got '2'"),
        (VALID | {"seats": 2.0}, "argument 'seats' must be integer, got 2.0"),
        (VALID | {"seats": True}, "argument 'seats' must be integer, got true"),
        (VALID | {"seats": None}, "argument 'seats' must be integer, got null"),
        (VALID | {"price": False}, "argument 'price' must be number, got false"),
        (VALID | {"price": float("inf")}, "argument 'price' must be number, got Infinity"),
        (VALID | {"price": 10**400}, "argument 'price' must be number, got an integer of more than 20 digits"),
        (VALID | {"price": -(10**309)}, "argument 'price' must be number, got an integer of more than 20 digits"),
        (VALID | {"price": float("nan")}, "argument 'price' must be number, got NaN"),
        (VALID | {"window": 1}, "argument 'window' must be boolean, got 1"),
        (VALID | {"seat_class": "first"}, "argument 'seat_class' must be one of 'economy', 'business', got 'first'"),
        (VALID | {"extras": [1]}, "argument 'extras' must be array of string or null, got array of 1"),
        (VALID | {"notes": {"a": "b"}}, "argument 'notes' must be object, got object of 1"),
        (VALID | {"window": 10**5000}, "argument 'window' must be boolean, got an integer of more than 20 digits"),
        (VALID | {"window": "x" * 10_000}, f"argument 'window' must be boolean, got '{'x' * 50}'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    error = argument_error(tools_of(Desk)["book"], arguments)
    assert error is not None
    assert error.startswith(message)
    assert len(error) < 200


HUGE = st.sampled_from([10**309, -(10**400), 10**4000])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | HUGE | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PARAMETERS = tools_of(Desk)["book"]["function"]["parameters"]["properties"]


@pytest.mark.parametrize("name", [*PARAMETERS, "other"])
@settings(deadline=None, max_examples=25)
@given(value=JSON)
@example(value=10**400)
@example(value={"a": [-(10**400), float("nan")]})
def test_any_json_either_fits_or_is_named(name, value):
    error = argument_error(tools_of(Desk)["book"], VALID | {name: value})
    assert error is None or len(error) < 200


def _no_docstring(self, a: int): ...


def _no_hint(self, a):
    """Do it."""


def _no_json_type(self, a: bytes):
    """Do it."""


def _keywords(self, **a: int):
    """Do it."""


def _wrong_name(self, a: int):
    """Do it.

    Args:
        b: the other.
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_no_docstring, "tool _no_docstring needs a docstring"),
        (_no_hint, "tool _no_hint: parameter a needs a type hint"),
        (_no_json_type, "tool _no_json_type: parameter a has type <class 'bytes'>, which JSON does not have"),
        (_keywords, "tool _keywords: parameter a must be an ordinary named one"),
        (_wrong_name, "tool _wrong_name: the docstring describes b, which is no parameter"),
    ],
)
def test_a_method_that_cannot_be_a_tool_fails_when_it_is_marked(function, message):
    with pytest.raises(ValueError, match=message):
        schema_of(function)
