import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.verifiers import answer_after, integer_after


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12+7=19;19-5=14#14", 14),
        ("#3#7", 7),
        ("# 7 \n", 7),
        ("#-7", -7),
        ("#007", 7),
        ("14", None),
        ("", None),
        ("#", None),
        ("#14.", None),
        ("#1 4", None),
        ("#+14", None),
        ("#--1", None),
        ("#1_4", None),
        ("#٣", None),
        ("#²", None),
        ("#" + "9" * 5000, None),
    ],
)
def test_integer_after_the_last_marker(text, answer):
    assert integer_after(text) == answer


def test_marker_can_be_longer():
    assert answer_after("so #1 #### 72 ", "####") == "72"
    assert integer_after("so #### 72", "####") == 72
    assert answer_after("none", "####") is None


@settings(deadline=None)
@given(st.text())
def test_no_text_crashes_the_verifier(text):
    integer_after(text)
    assert integer_after(text + "#12") == 12
