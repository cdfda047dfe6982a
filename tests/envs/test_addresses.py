import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.addresses import is_address


@pytest.mark.parametrize("text", ["http://a", "https://a.b:8000/v1", "http://127.0.0.1:1/mcp", "http://[::1]:80/"])
def test_addresses_that_requests_can_go_to(text):
    assert is_address(text, query=False)
    assert is_address(text, query=True)


@pytest.mark.parametrize(
    "text",
    ["", "a", "//a", "http://", "http:///x", "file:///x", "http://a:0", "http://a:b", "http://a:65536", "http://[::1/",
     "http://u@a", "http://u:p@a", "http://:p@a", "http://a/#x"],
)  # fmt: skip
def test_other_texts_are_none(text):
    assert not is_address(text, query=False)
    assert not is_address(text, query=True)


def test_a_query_is_allowed_only_where_no_path_is_appended():
    assert is_address("http://a/mcp?x=1", query=True)
    assert not is_address("http://a/v1?x=1", query=False)


@given(st.text())
def test_no_text_raises(text):
    is_address(text, query=True)
    is_address("http://" + text, query=False)
