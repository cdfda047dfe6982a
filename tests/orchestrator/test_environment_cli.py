import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envs.arithmetic import ArithmeticEnv
from envs.conversation import ConversationEnv
from envs.lookup import LookupEnv
from envs.registry import WITHOUT_ID, load
from envs.tool_calls import PARSERS
from tests.orchestrator.test_cli import call
from tests.pico import make_checkpoint

CHECKOUT = Path(__file__).parents[2]
TOY = CHECKOUT / "examples/toy/tool/base"
CALL = '<tool_call>{"name": "lookup", "arguments": {"key": "a"}}</tool_call>'


def env(capsys, monkeypatch, *arguments, typed=""):
    """Run `rejuvenate env ...` in this process, with a pipe as the terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return call(capsys, monkeypatch, "env", *arguments)


class Capitals(ArithmeticEnv):
    """The shipped toys' tokenizers have no capital letters."""

    def first_messages(self, task):
        return "WHAT IS " + super().first_messages(task)


class Raises(LookupEnv):
    def begin(self, task):
        raise KeyError("broken")


class Shares(ArithmeticEnv):
    """Closing one closes all."""

    closed = False

    def reset(self, **kwargs):
        Shares.closed = False
        return super().reset(**kwargs)

    def close(self):
        Shares.closed = True

    def step(self, action):
        if Shares.closed:
            raise RuntimeError("closed")
        return super().step(action)


class Drifts(ArithmeticEnv):
    """A copy of it draws other tasks."""

    def __setstate__(self, state):
        self.__dict__.update(state, task_seed=state["task_seed"] + 1)


def test_list_names_what_is_shipped(capsys, monkeypatch):
    code, out, _ = env(capsys, monkeypatch, "list")
    assert code == 0
    assert "rejuvenate/Lookup-v0\n    envs.lookup:LookupEnv\n" in out
    assert "envs.reasoning_gym:ReasoningGymEnv\n" in out


@pytest.mark.parametrize("entry_point", WITHOUT_ID)
def test_what_is_listed_can_be_imported(entry_point):
    assert issubclass(load(entry_point), ConversationEnv)


@pytest.mark.parametrize("model", [(), ("--model", TOY)])
def test_check_passes_a_shipped_environment_line_by_line(capsys, monkeypatch, model):
    code, out, _ = env(capsys, monkeypatch, "check", "rejuvenate/Lookup-v0", "hops_max=5", *model)
    assert code == 0
    assert "rejuvenate/Lookup-v0: 15 checks passed, 0 failed" in out
    assert "FAILED" not in out
    names = [line.removeprefix("passed").strip() for line in out.splitlines() if line.startswith("passed")]
    assert {"gymnasium's checker", "five values", "same seed, same episode", "episodes end", "tool schemas"} < set(
        names
    )
    assert names[-5:] == ["speed", "pickling", "closing", "rendering", "mask"]
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize(
    ("name", "options", "failed", "words"),
    [
        (
            "Capitals",
            ("--model", TOY),
            "rendering",
            ["cannot write the content of message 1 (user)", "Fix:"],
        ),
        (
            "Raises",
            (),
            "gymnasium's checker",
            ["raised KeyError: 'broken', at tests/orchestrator/test_environment_cli.py:", "in begin Fix: Mend what"],
        ),
        ("Shares", (), "closing", ["after one environment was closed, another one raised RuntimeError", "Fix: Let"]),
        ("Drifts", (), "pickling", ["a pickled copy plays another episode", "Fix: Keep open files"]),
    ],
)
def test_check_explains_a_failure(capsys, monkeypatch, name, options, failed, words):
    code, out, _ = env(capsys, monkeypatch, "check", f"{__name__}:{name}", *options)
    assert code == 1
    shown = " ".join(out.split())
    assert f"FAILED {failed} " in shown
    for part in words:
        assert part in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "rejuvenate/Lookups-v0"), "Did you mean 'rejuvenate/Lookup-v0'?"),
        (("check", "rejuvenate/Lookup-v0", "hops_max"), "keyword arguments must be KEY=VALUE, got 'hops_max'"),
        (("check", "rejuvenate/Lookup-v0", "user={a: [b"), "user must have a YAML value, got '{a: [b'"),
        (("check", "rejuvenate/Lookup-v0", "x={a:b/c: d}"), "environment.kwargs.x is no argument of LookupEnv"),
        (("check", "rejuvenate/Lookup-v0", "x=2001-01-01"), "environment.kwargs.x is no argument of LookupEnv"),
        (("check", "rejuvenate/Lookup-v0", "x={null: 3}"), "environment.kwargs.x is no argument of LookupEnv"),
        (("check", "rejuvenate/Lookup-v0", "x=${"), "environment.kwargs.x is no argument of LookupEnv"),
        (("check", "rejuvenate/Lookup-v0", "hops_max=0"), "environment.kwargs.hops_max must lie in"),
        (("check", "rejuvenate/Lookup-v0", "hops_max=x"), "hops_max must be an integer in [1, 25], got 'x'."),
        (("play", "rejuvenate/Lookup-v0", "seed=x"), "environment.kwargs.seed must be an integer >= 0, got 'x'."),
        (("check", "envs.code_tool:CodeToolEnv", "sandbox=[1]"), "kwargs.sandbox must hold the settings of a sandbox"),
        (("check", "envs.question_answer:QuestionAnswerEnv", "path={a: b}"), "environment.kwargs.path must be a text"),
        (
            ("play", "rejuvenate/Lookup-v0", "split=heldout", "--index", "1000"),
            "--index must lie in [0, 999]",
        ),
    ],
)
def test_wrong_arguments_are_explained(capsys, monkeypatch, arguments, words):
    code, _, err = env(capsys, monkeypatch, *arguments)
    assert code == 2
    assert words in err


NO_TOOL = "from envs import ToolEnv\nclass Raises(ToolEnv):\n    pass\n"
IN_CONSTRUCTOR = """from envs import ConversationEnv

class Raises(ConversationEnv):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        open("/no/such/file")
"""
IN_STEP = """from envs import ToolEnv, tool

class Raises(ToolEnv):
    @tool
    def look(self) -> str:
        "Look."
        return "a"
    def sample_task(self, rng): return {"n": int(rng.integers(99))}
    def first_messages(self, task): return "?"
    def finish(self, text):
        raise RuntimeError("database is gone")
"""
IN_TASK = """from envs import ConversationEnv

class Raises(ConversationEnv):
    def sample_task(self, rng): return {}["price"]
"""
NO_FINISH = IN_STEP[: IN_STEP.index("    def finish")]


def author(tmp_path, monkeypatch, text):
    """Work in a folder with the module `raises.py`."""
    (tmp_path / "raises.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "raises", raising=False)


@pytest.mark.parametrize("command", ["check", "play"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NO_TOOL, "(ValueError: Raises has no tools: mark at least one method with @tool at raises.py:2)"),
        (IN_CONSTRUCTOR, "'/no/such/file' at raises.py:6)"),
        (IN_CONSTRUCTOR.replace('"/no/such/file"', "None"), "not NoneType at raises.py:6)"),
    ],
)
def test_an_environment_that_cannot_be_made_is_one_paragraph(capsys, monkeypatch, tmp_path, command, text, words):
    author(tmp_path, monkeypatch, text)
    code, out, err = env(capsys, monkeypatch, command, "raises:Raises")
    assert (code, out) == (2, "")
    assert err.startswith("rejuvenate: environment.id must name an environment that can be made (")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (IN_TASK, "raises:Raises raised KeyError: 'price', in reset, at raises.py:4."),
        (IN_STEP, "raises:Raises raised RuntimeError: database is gone, in step, at raises.py:11."),
    ],
)
def test_play_says_where_the_environment_raised(capsys, monkeypatch, tmp_path, text, said):
    author(tmp_path, monkeypatch, text)
    code, _, err = env(capsys, monkeypatch, "play", "raises:Raises", typed="hello\n")
    assert code == 1
    assert err == f"rejuvenate: {said} `rejuvenate env check raises:Raises` tries every method.\n"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (IN_STEP, "raised RuntimeError: database is gone, at raises.py:11 in finish"),
        (IN_TASK, "raised KeyError: 'price', at raises.py:4 in sample_task"),
        (NO_FINISH, "raised NotImplementedError: Raises must define finish(text), at raises.py:3"),
    ],
)
def test_check_tells_one_exception_once(capsys, monkeypatch, tmp_path, text, cause):
    author(tmp_path, monkeypatch, text)
    code, out, _ = env(capsys, monkeypatch, "check", "raises:Raises")
    assert code == 1
    assert " ".join(out.split()).count(cause) == 1
    assert out.count("FAILED") == 1
    assert out.count("Fix: Mend what it raises; this check can say nothing before.") == 1
    assert "not run closing: see above\n" in out
    assert "1 failed, " in out.splitlines()[-1]
    assert out.splitlines()[-1].endswith(" not run")


@pytest.mark.parametrize("command", ["check", "play"])
def test_a_model_that_is_no_directory_is_refused_at_once(capsys, monkeypatch, command):
    code, out, err = env(capsys, monkeypatch, command, "rejuvenate/Lookup-v0", "--model", "nope")
    assert (code, out) == (2, "")
    assert err.startswith("rejuvenate: --model must be an existing directory or a hub name, got 'nope'.")


def test_a_model_without_a_tokenizer_is_refused(capsys, monkeypatch, tmp_path):
    code, _, err = env(capsys, monkeypatch, "check", "rejuvenate/Lookup-v0", "--model", tmp_path)
    assert code == 2
    assert "--model must hold a tokenizer that can be loaded (" in err


@pytest.mark.parametrize("parser", sorted(PARSERS))
def test_play_shows_a_call_that_can_be_typed(capsys, monkeypatch, parser):
    asked = ("play", "rejuvenate/Lookup-v0", f"tool_parser={parser}")
    _, shown, _ = env(capsys, monkeypatch, *asked)
    told = shown.partition("--- episode")[0]
    assert told.startswith("A line is a turn")
    call = told.partition("call: ")[2].partition("; Ctrl-D")[0] or told.partition(" A call:\n")[2]
    _, played, _ = env(capsys, monkeypatch, *asked, typed=call.rstrip("\n") + "\n")
    assert "tool_calls=1" in played
    assert played.count("A line is a turn") == 1


def test_an_empty_line_is_no_turn_in_a_terminal(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("\n \n0\n"))
    _, out, _ = call(capsys, monkeypatch, "env", "play", "rejuvenate/Arithmetic-v0")
    assert "episodes: 1, mean reward 0" in out
    _, out, _ = env(capsys, monkeypatch, "play", "rejuvenate/Arithmetic-v0", typed="\n\n")
    assert "episodes: 2, mean reward 0" in out


def test_play_shows_messages_answers_rewards_and_the_end(capsys, monkeypatch):
    task = LookupEnv().task(3)
    letter = task["map"][0]
    answer = LookupEnv().expert_turns(task)[-1]
    continued = CALL.replace(", ", ",\\\n ", 1)
    code, out, _ = env(
        capsys, monkeypatch, "play", "rejuvenate/Lookup-v0", "--index", "3", typed=f"{continued}\n{answer}\n"
    )
    assert code == 0
    assert f"[user] {task['start']}{task['hops']}\n" in out
    assert "[tool lookup(key: string)] Return the letter" in out
    assert f"[tool lookup] {letter}\n(reward 0, tool_calls=1 tool_errors=0)" in out
    assert "--- finished: reward 1 ---" in out
    assert "--- episode with seed 1 ---" in out  # it goes on until the input ends
    assert out.endswith("episodes: 1, mean reward 1\n")


def test_play_shows_what_the_tokens_spell(capsys, monkeypatch):
    code, out, _ = env(
        capsys, monkeypatch, "play", "rejuvenate/Lookup-v0", "--tokens", "--model", TOY, typed=f"{CALL}\n"
    )
    assert code == 0
    assert "<|assistant|>" in out
    assert "<|tool|>" in out
    _, plain, _ = env(capsys, monkeypatch, "play", "rejuvenate/Lookup-v0", typed=f"{CALL}\n")
    assert "<|tool|>" not in plain


@pytest.mark.parametrize(
    "name", ["envs", "configs", "tests", "json", "numpy", "rich", "My", "1a", "class", "a-b", "../x", ""]
)
def test_new_refuses_names_that_would_hide_something(capsys, monkeypatch, tmp_path, name):
    code, _, err = env(capsys, monkeypatch, "new", name, "--directory", tmp_path)
    assert code == 2
    assert "NAME must" in err
    assert list(tmp_path.iterdir()) == []


def test_new_overwrites_nothing(capsys, monkeypatch, tmp_path):
    (tmp_path / "my_env").mkdir()
    code, _, err = env(capsys, monkeypatch, "new", "my_env", "--directory", tmp_path)
    assert code == 2
    assert "must not exist yet" in err
    assert list((tmp_path / "my_env").iterdir()) == []


def python(*arguments, folder, path=()):
    """Run Python in a folder, with this checkout and `path` to import from."""
    paths = os.pathsep.join(map(str, [CHECKOUT, *path]))
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_new_names_the_module_that_has_the_name(capsys, monkeypatch, tmp_path):
    author(tmp_path, monkeypatch, "")
    code, _, err = env(capsys, monkeypatch, "new", "raises")
    assert code == 2
    assert f"must not be that of another module that can be imported ({tmp_path / 'raises.py'})" in err


def test_the_folder_above_a_new_package_is_named(capsys, monkeypatch, tmp_path):
    author(tmp_path, monkeypatch, "")
    env(capsys, monkeypatch, "new", "my_env")
    importlib.invalidate_caches()
    code, _, err = env(capsys, monkeypatch, "check", "my_env:MyEnv-v0")
    sys.modules.pop("my_env", None)
    assert code == 2
    assert "Run it inside my_env/, or pip install -e my_env." in err


def test_the_new_package_passes_its_own_test_and_the_check(capsys, monkeypatch, tmp_path):
    code, out, _ = env(capsys, monkeypatch, "new", "my_env", "--directory", tmp_path)
    assert code == 0
    assert "rejuvenate env check my_env:MyEnv-v0" in out
    root = tmp_path / "my_env"
    assert len((root / "my_env/environment.py").read_text().splitlines()) <= 25
    tested = python("-m", "pytest", "-q", "-p", "no:cacheprovider", folder=root)
    assert (tested.returncode, "3 passed" in tested.stdout) == (0, True), tested.stdout
    checked = python("-m", "orchestrator", "env", "check", "my_env:MyEnv-v0", folder=root)
    assert (checked.returncode, "0 failed" in checked.stdout) == (0, True), checked.stdout + checked.stderr


def test_an_installed_package_is_found_by_its_entry_point(capsys, monkeypatch, tmp_path):
    env(capsys, monkeypatch, "new", "my_env", "--directory", tmp_path)
    root = tmp_path / "my_env"
    metadata = root / "my_env-0.1.0.dist-info"  # what an installer writes of the pyproject.toml
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my_env\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[rejuvenate.environments]\nMyEnv-v0 = my_env.environment:MyEnv\n")
    code = (
        "import sys, gymnasium, envs; assert 'my_env' not in sys.modules; env = gymnasium.make('MyEnv-v0'); "
        "print(env.reset(seed=1)[0][0]['content'], type(envs.make('my_env:MyEnv-v0').unwrapped).__name__)"
    )
    made = python("-W", "error", "-c", code, folder=tmp_path, path=[root])
    assert made.stdout.startswith("What is the price of"), made.stderr
    assert made.stdout.endswith(" MyEnv\n")
    listed = python("-m", "orchestrator", "env", "list", folder=tmp_path, path=[root])
    assert "MyEnv-v0\n    my_env.environment:MyEnv (installed)" in listed.stdout


def test_prompts_of_an_environment_are_what_a_repair_asks_the_sft_checkpoint(capsys, monkeypatch, tmp_path):
    asked = tmp_path / "asked.jsonl"
    code, out, _ = env(
        capsys, monkeypatch, "prompts", "rejuvenate/Lookup-v0", "hops_max=3", "--out", asked, "--count", 5
    )
    assert code == 0
    assert out == f"5 prompts in {asked}\n"
    rows = [json.loads(line) for line in asked.read_text().splitlines()]
    assert all(row["messages"][-1]["role"] == "user" and row["tools"] for row in rows)
    assert len({row["messages"][-1]["content"] for row in rows}) > 2, "several tasks"
    more = ["prompts", "rejuvenate/Lookup-v0", "hops_max=3", "--out", asked, "--count", 6, "--overwrite"]
    assert env(capsys, monkeypatch, *more)[:2] == (0, f"6 prompts in {asked}\n")
    base, sft = make_checkpoint(tmp_path / "base"), make_checkpoint(tmp_path / "sft", seed=1)
    options = ["--base", base, "--sft", sft, "--out", tmp_path / "out", "--prompts", asked, "--pairs", 3]
    code, out, err = call(capsys, monkeypatch, "transform", *options)
    assert code == 0, err
    assert "note: calibration pairs: greedy answers of the SFT checkpoint to 3 of 6 prompts" in out
    assert json.loads((tmp_path / "out/report.json").read_text())["num_reset"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "{dir}/there.jsonl"], "must not exist yet: nothing is overwritten"),
        (["--out", "{dir}/there.jsonl/file.jsonl"], "must be writable"),
        (["--out", "{dir}/new.jsonl", "--count", "0"], "must be 1 or more"),
        (["--out", "{dir}/new.jsonl", "hops=3"], "hops"),
    ],
)
def test_prompts_that_cannot_be_written_are_refused(capsys, monkeypatch, tmp_path, options, words):
    (tmp_path / "there.jsonl").write_text("mine")
    options = [option.format(dir=tmp_path) for option in options]
    code, _, err = env(capsys, monkeypatch, "prompts", "rejuvenate/Lookup-v0", *options)
    assert code == 2
    assert words in err
    assert [path.name for path in tmp_path.iterdir()] == ["there.jsonl"]
    assert (tmp_path / "there.jsonl").read_text() == "mine"
