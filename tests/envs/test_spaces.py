import pytest

from envs.spaces import ChatText, Messages, as_messages


@pytest.mark.parametrize("text", ["", "abc", "数学 🙂 \n\t\x00", "<tool_call>{}", "\ud800"])
def test_any_string_is_chat_text(text):
    assert text in ChatText()


@pytest.mark.parametrize("value", [None, 1, b"bytes", ["a"], ("a",)])
def test_anything_else_is_no_chat_text(value):
    assert value not in ChatText()


@pytest.mark.parametrize("space_class", [ChatText, Messages])
def test_samples_follow_the_seed_and_lie_in_the_space(space_class):
    first, second, other = space_class(), space_class(), space_class()
    first.seed(3), second.seed(3), other.seed(4)
    samples = [first.sample() for _ in range(50)]
    assert samples == [second.sample() for _ in range(50)]
    assert samples != [other.sample() for _ in range(50)]
    assert all(sample in first for sample in samples)
    assert len({repr(sample) for sample in samples}) > 10


def test_spaces_with_equal_bounds_are_equal():
    assert ChatText() == ChatText()
    assert Messages() == Messages()
    assert ChatText(8) != ChatText(9)
    assert Messages(1) != Messages(2)
    assert ChatText() != Messages()
    assert len({ChatText(), ChatText(), Messages(), Messages()}) == 2


def test_sampling_with_a_mask_is_refused():
    with pytest.raises(ValueError, match="takes no mask"):
        ChatText().sample(mask=[1])


def test_messages_are_tuples_of_role_and_text():
    assert () in Messages()
    assert ({"role": "user", "content": ""}, {"role": "tool", "name": "f", "content": "x"}) in Messages()


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "user", "content": "a list"}],
        ({"role": "robot", "content": "x"},),
        ({"role": "user"},),
        ({"role": "user", "content": None},),
        ({"role": "user", "content": "x", 1: 2},),
        ("text",),
    ],
)
def test_other_values_are_no_messages(value):
    assert value not in Messages()


def test_a_string_stands_for_one_user_message():
    assert as_messages("hi") == [{"role": "user", "content": "hi"}]
    assert as_messages(()) == []
