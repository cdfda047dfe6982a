import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from configs.errors import ConfigError
from envs.memory_tool import MemoryToolEnv


class Remembering(MemoryToolEnv):
    """Asks to remember a word; the answer is that word."""

    def sample_task(self, rng):
        return {"word": str(rng.integers(10**6))}

    def begin(self, task):
        """An author's own, which does not call that of the base."""

    def first_messages(self, task):
        return f"Remember {task['word']}."

    def finish(self, text):
        return float(text == self.current_task["word"])

    def expert_turns(self, task):
        calls = [("save_note", {"text": f"the word is {task['word']}"}), ("search_notes", {"query": "word"})]
        return [*(self.write_call(*call) for call in calls), task["word"]]


def called(env, name, **arguments):
    observation, *_, info = env.step(env.write_call(name, arguments))
    return observation[0]["content"], info["metrics"]["tool_errors"]


@pytest.fixture
def env():
    env = Remembering(max_notes=3, max_note_characters=20, max_turns=50)
    env.reset(seed=0)
    return env


def test_notes_are_saved_found_listed_and_deleted(env):
    assert called(env, "list_notes") == ("There are no notes.", 0)
    assert called(env, "save_note", text="The key is red") == ("Saved as note 1.", 0)
    assert called(env, "save_note", text="The doors are green") == ("Saved as note 2.", 0)
    assert called(env, "search_notes", query="Which door?") == ("2. The doors are green", 0)
    assert called(env, "search_notes", query="the key") == ("1. The key is red\n2. The doors are green", 0)
    assert called(env, "search_notes", query='"*(') == ("No note has any of these words.", 0)
    assert called(env, "delete_note", number=1) == ("Deleted note 1.", 0)
    assert called(env, "list_notes") == ("2. The doors are green", 0)
    assert called(env, "save_note", text="new") == ("Saved as note 3.", 0)


def test_notes_have_limits(env):
    assert called(env, "save_note", text="x" * 21) == (
        "Error: a note has at most 20 characters, this one has 21",
        1,
    )
    assert called(env, "save_note", text=" \n") == ("Error: a note must not be empty", 1)
    for _ in range(3):
        called(env, "save_note", text="x" * 20)
    assert called(env, "save_note", text="y") == ("Error: there are 3 notes already: delete one first", 1)
    assert called(env, "delete_note", number=9) == ("Error: there is no note 9", 1)
    assert called(env, "delete_note", number=10**600)[0] == "Error: there is no note 10000000000000000000"
    called(env, "delete_note", number=2)
    assert called(env, "save_note", text="y") == ("Saved as note 4.", 0)


def test_an_episode_does_not_see_the_notes_of_another(env):
    called(env, "save_note", text="secret")
    other = Remembering()
    other.reset(seed=0)
    assert called(other, "list_notes")[0] == "There are no notes."
    env.reset(seed=0)
    assert called(env, "search_notes", query="secret")[0] == "No note has any of these words."
    assert called(env, "save_note", text="first") == ("Saved as note 1.", 0)


@settings(deadline=None, max_examples=50)
@given(text=st.text(st.characters(codec=None), max_size=20), query=st.text(st.characters(codec=None)))
def test_any_text_is_a_note_and_a_query(text, query):
    env = Remembering(max_note_characters=20)
    env.reset(seed=0)
    if text.strip():
        env.save_note(text)
        assert env.search_notes(text).encode()
    env.search_notes(query)
    env.list_notes()


def test_it_can_be_trained_on_and_sent_away(env):
    envs.check_environment(env)
    called(env, "save_note", text="kept")
    assert called(pickle.loads(pickle.dumps(env)), "list_notes") == ("1. kept", 0)


@pytest.mark.parametrize("kwargs", [{"max_notes": 0}, {"max_note_characters": 0}])
def test_wrong_limits_are_named(kwargs):
    with pytest.raises(ConfigError, match=rf"environment\.kwargs\.{next(iter(kwargs))} must lie in \[1, "):
        Remembering(**kwargs)
