import json
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import example, given, settings
from hypothesis import strategies as st

import envs
from configs.errors import ConfigError
from envs import search_index
from envs.search_index import SearchIndex, build, index_of, match_of
from envs.search_tool import SearchToolEnv

EXAMPLE = "examples.environments.lighthouses:Lighthouses"
DOCUMENTS = [
    ("d1", "Whales", "The blue whale is the largest animal. It eats krill."),
    ("d2", "Krill", "Krill are small. Krill live in swarms, and many animals eat them."),
    ("d3", "Zürich", "Zürich lies at a lake. 東京は日本の首都です。"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index_of.cache_clear()
    return tmp_path / "cache" / "rejuvenate" / "search"


@pytest.fixture
def index(tmp_path):
    build(DOCUMENTS, tmp_path / "made.fts5")
    return SearchIndex(tmp_path / "made.fts5")


def jsonl(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


class Asking(SearchToolEnv):
    def task(self, index):
        return {"n": index}

    def first_messages(self, task):
        return "?"

    def finish(self, text):
        return 1.0


def called(env, name, **arguments):
    env.reset(options={"index": 0})
    observation, *_, info = env.step(env.write_call(name, arguments))
    return observation[0]["content"], info["metrics"]["tool_errors"]


def found(index, query, limit=10):
    return [hit.id for hit in index.search(query, limit)]


def test_documents_are_ranked_by_how_well_they_fit(index):
    assert found(index, "krill") == ["d2", "d1"]
    assert found(index, "What is the largest animal?") == ["d1", "d2"]  # any of the words is enough
    assert found(index, "krill", limit=1) == ["d2"]
    assert found(index, "zurich") == found(index, "ZÜRICH") == ["d3"]
    assert found(index, "whales") == ["d1"]  # the stem
    assert found(index, "elephant") == []
    assert index.search("largest", 1)[0].snippet == DOCUMENTS[0][2]
    assert index.size == 3


def test_a_snippet_is_the_part_that_fits(tmp_path):
    words = [f"w{n}" for n in range(400)]
    words[300] = "needle"
    build([("a", "", " ".join(words))], tmp_path / "long.fts5")
    snippet = SearchIndex(tmp_path / "long.fts5").search("needle", 1)[0].snippet
    assert "needle" in snippet
    assert len(snippet.split()) <= 50


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ('whale" OR title:x*', '"whale" OR "OR" OR "title" OR "x"'),
        ("NEAR(a b) AND NOT -c ^d {e} a", '"NEAR" OR "a" OR "b" OR "AND" OR "NOT" OR "c" OR "d" OR "e"'),
        ("-- ' ; () *", ""),
        ("", ""),
        (" ".join(f"w{n}" for n in range(200)), " OR ".join(f'"w{n}"' for n in range(64))),
    ],
)
def test_no_part_of_a_query_is_an_operator(query, match):
    assert match_of(query) == match


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "made.fts5"
    build(DOCUMENTS, path)
    return SearchIndex(path)


@settings(deadline=None)
@given(query=st.text(), limit=st.integers(1, 5))
@example(query='"', limit=1)
@example(query="_ __ ___", limit=1)
@example(query="\x00\ud800 a\x00b", limit=1)
@example(query="x" * 100_000, limit=1)
@example(query="whale AND (", limit=5)
def test_no_text_makes_a_search_raise(opened, query, limit):
    assert len(opened.search(query, limit)) <= limit
    opened.read(query)


@pytest.mark.parametrize("tokenizer", search_index.TOKENIZERS)
def test_the_tokenizers(tmp_path, tokenizer):
    build(DOCUMENTS, tmp_path / "made.fts5", tokenizer)
    index = SearchIndex(tmp_path / "made.fts5")
    assert found(index, "whale") == ["d1"]
    assert found(index, "swarm") == {"porter": ["d2"], "unicode61": [], "trigram": ["d2"]}[tokenizer]
    assert found(index, "日本の") == {"porter": [], "unicode61": [], "trigram": ["d3"]}[tokenizer]


def test_the_index_cannot_be_written(index):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        index._connection().execute("DELETE FROM source")


def test_an_index_appears_whole_or_not_at_all(tmp_path):
    def documents():
        yield DOCUMENTS[0]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        build(documents(), tmp_path / "made.fts5")
    with pytest.raises(ValueError, match=r"an id stands twice .*source\.id"):
        build([DOCUMENTS[0], DOCUMENTS[0]], tmp_path / "made.fts5")
    assert list(tmp_path.iterdir()) == []
    build(DOCUMENTS, tmp_path / "made.fts5")
    build(DOCUMENTS[:1], tmp_path / "made.fts5")
    assert SearchIndex(tmp_path / "made.fts5").size == 1
    assert [path.name for path in tmp_path.iterdir()] == ["made.fts5"]


def test_a_search_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    build(((str(n), "", "a b c d e f g h") for n in range(20_000)), tmp_path / "made.fts5")
    index = SearchIndex(tmp_path / "made.fts5")
    monkeypatch.setattr(search_index, "SEARCH_S", 0.0)
    with pytest.raises(TimeoutError, match="longer than 0 seconds"):
        index.search("a b c d e f g h", 1)
    monkeypatch.undo()
    assert len(index.search("a b", 3)) == 3


def test_threads_share_an_index(index):
    hits = []
    threads = [threading.Thread(target=lambda: hits.append(found(index, "krill"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert hits == [["d2", "d1"]] * 8


def test_the_tools(tmp_path):
    rows = [{"id": i, "title": title, "text": text} for i, title, text in DOCUMENTS]
    env = Asking(documents=jsonl(tmp_path / "docs.jsonl", *rows), max_results=2, max_characters=30)
    text, errors = called(env, "search", query="krill animals", limit=9)
    assert text == f"[d2] Krill\n{DOCUMENTS[1][2][:30]}\n\n[d1] Whales\n{DOCUMENTS[0][2][:30]}"
    assert errors == 0
    assert called(env, "search", query="(((") == ("No document has any of these words.", 0)
    assert called(env, "search", query="krill", limit=-3)[0].count("[") == 1
    first, _ = called(env, "read_document", document="[d1]")
    assert first == f"{DOCUMENTS[0][2][:30]}\n[22 more characters; go on with start=30]"
    assert called(env, "read_document", document="d1", start=30)[0] == DOCUMENTS[0][2][30:]
    assert called(env, "read_document", document="d1", start=10**30) == ("", 0)
    assert called(env, "read_document", document="d9") == ("Error: there is no document 'd9'", 1)
    assert called(env, "search") == ("Error: missing argument 'query'", 1)


def test_documents_are_indexed_once_and_again_after_they_changed(tmp_path, cache):
    path = jsonl(tmp_path / "docs.jsonl", {"text": "one"}, {"text": "two", "id": 7})
    env = Asking(documents=path)
    assert [hit.id for hit in env.index.search("one two", 5)] == ["0", "7"]
    (built,) = cache.iterdir()
    stamp = built.stat().st_mtime_ns
    index_of.cache_clear()
    Asking(documents=path)
    assert [file.stat().st_mtime_ns for file in cache.iterdir()] == [stamp]
    jsonl(tmp_path / "docs.jsonl", {"text": "three"})
    index_of.cache_clear()
    assert Asking(documents=path).index.size == 1
    assert len(list(cache.iterdir())) == 2
    assert Asking(documents=str(built)).index.size == 2
    assert pickle.loads(pickle.dumps(env)).index.size == 1


def test_processes_that_build_at_once_do_not_disturb_each_other(tmp_path):
    rows = [{"id": n, "text": f"document number{n}"} for n in range(5000)]
    path = jsonl(tmp_path / "docs.jsonl", *rows)
    code = (
        "import sys; from envs.search_index import index_of\n"
        "index = index_of(sys.argv[1], 'id', 'title', 'text', 'porter')\n"
        "print(index.size, index.search('number4321', 5)[0].id)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in started] == ["5000 4321"] * 3


@pytest.mark.parametrize(
    ("rows", "kwargs", "message"),
    [
        ([{"text": "a"}, {"body": "b"}], {}, r"documents must hold a text in 'text' on line 2"),
        ([{"text": 3}], {}, r"documents must hold a text in 'text' on line 1"),
        ([[1]], {}, r"documents must hold a text in 'text' on line 1"),
        ([{"text": "a", "id": 1}, {"text": "b", "id": 1}], {}, r"documents must be documents .*an id stands twice"),
        ([{"text": "a"}], {"tokenizer": "stems"}, r"tokenizer must be one of porter, trigram, unicode61, got 'stems'"),
        ([{"text": "a"}], {"max_results": 0}, r"max_results must lie in \[1, 100\]"),
    ],
)
def test_wrong_documents_and_settings_are_named(tmp_path, rows, kwargs, message):
    with pytest.raises(ConfigError, match=r"environment\.kwargs\." + message):
        Asking(documents=jsonl(tmp_path / "docs.jsonl", *rows), **kwargs)


def test_files_that_are_no_documents_or_no_index_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.documents must be a file, got '/none\.jsonl'"):
        Asking(documents="/none.jsonl")
    with pytest.raises(ConfigError, match=r"documents must be a file, got '/none\.fts5'.* Build it with"):
        Asking(documents="/none.fts5")
    (tmp_path / "text.fts5").write_text("no index at all, but long enough to have a page's head" * 100)
    with pytest.raises(ConfigError, match=r"is no search index \(file is not a database\)"):
        Asking(documents=str(tmp_path / "text.fts5"))
    build(DOCUMENTS, tmp_path / "old.fts5")
    with sqlite3.connect(tmp_path / "old.fts5") as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(ConfigError, match=r"is a search index of another version \(9\)"):
        Asking(documents=str(tmp_path / "old.fts5"))


def test_the_example_passes_both_checkers_and_the_command(cache):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(envs.make(EXAMPLE).unwrapped)
    findings = list(envs.checkup(lambda: envs.make(EXAMPLE)))
    assert [finding for finding in findings if finding.problems] == []
    env = envs.make(EXAMPLE).unwrapped
    env.reset(options={"task": {"places": ["Banmund", "Banren"]}})
    assert "55 metres high" in env.demonstration()[2]["content"]
    for text, reward in (("#118", 1.0), ("#55", 0.0), ("118", 0.0)):
        env.reset(options={"task": {"places": ["Banmund", "Banren"]}})
        assert env.step(text)[1:3] == (reward, True)


def test_a_search_among_many_documents_is_quick(tmp_path):
    build(
        ((str(n), "", f"number{n} lies on number{n % 7}00000") for n in range(20_000)),
        tmp_path / "m.fts5",
    )
    index = SearchIndex(tmp_path / "m.fts5")
    started = time.perf_counter()
    assert [found(index, f"number{n}", 1) for n in range(100, 200)] == [[str(n)] for n in range(100, 200)]
    assert time.perf_counter() - started < 5


def test_the_documents_of_the_example_are_as_it_says():
    rows = [json.loads(line) for line in Path("examples/environments/lighthouses.jsonl").read_text().splitlines()]
    assert len({row["place"] for row in rows}) == len(rows) == 160
    assert all(f" {row['height']} metres" in row["text"] and row["place"] in row["text"] for row in rows)
