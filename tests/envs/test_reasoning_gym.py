import threading
import time
import warnings

import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from configs.errors import ConfigError
from envs.reasoning_gym import ReasoningGymEnv
from envs.reasoning_gym.formulas import is_formula
from envs.reasoning_gym.generators import FORMULAS, LITERALS
from envs.reasoning_gym.process import PROCESS, Ended, Failed, Process, TooLong
from envs.verifiers import text_between

ID = "envs.reasoning_gym:ReasoningGymEnv"
WITHOUT_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""Generators of which the package gives no answer: many are right."""


def generators():
    """Names of all generators, as the error on a wrong name lists them."""
    listed = PROCESS.ask({"name": "@", "config": {}, "seed": 0}, 60)["problem"]["fix"]
    names = listed.removeprefix("There are: ").removesuffix(".").split(", ")
    assert len(names) == 106
    return [name for name in names if name != "composite"]


def made(name, **kwargs):
    return envs.make(ID, {"name": name, **kwargs}).unwrapped


def reward(env, task, text):
    env.reset(options={"task": task})
    _, earned, terminated, _, info = env.step(text)
    assert terminated
    return earned, info["metrics"]


def test_the_package_s_own_answer_earns_the_whole_reward_with_every_generator():
    without = set()
    for name in generators():
        env = made(name)
        env.reset(seed=1)
        task, turns = env.current_task, env.expert_turns(env.current_task)
        if turns is None:
            without.add(name)
            continue
        assert reward(env, task, f"I think <answer>0</answer>, no: {turns[0]}")[0] == 1.0, (name, task)
        assert reward(env, task, task["answer"])[0] == 0.0, name
    assert without == WITHOUT_ANSWER


def test_no_scorer_runs_the_answer_as_code(tmp_path):
    marker = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    attacks = [code, f"[{code}]", f"x.__class__ or {code}", f"(lambda: {code})()", f"[[{code}, 1]]", f'{{"a": {code}}}']
    for name in generators():
        env = made(name)
        env.reset(seed=3)
        task = env.current_task
        for attack in attacks:
            assert reward(env, task, f"<answer>{attack}</answer>")[0] <= 0.05 or name in ACCEPTS_ANYTHING, name
            assert not marker.exists(), f"{name} ran {attack}"


ACCEPTS_ANYTHING = {"game_of_life_halting"}
"""Generators whose scorer takes any text for `True`."""


def test_the_generators_whose_scorer_evaluates_the_answer_are_those_that_are_closed():
    """Run where the package is: here, as a check of the package's version."""
    import inspect

    from reasoning_gym.composite import CompositeDataset  # noqa: F401
    from reasoning_gym.factory import DATASETS

    evaluating, parsing = set(), set()
    for name, (cls, _) in DATASETS.items():
        source = inspect.getsource(cls.score_answer)
        names = cls.score_answer.__code__.co_names
        if "eval" in names or "eval(" in source or "exec(" in source:
            evaluating.add(name)
        if ("parse_expr" in names or "sympify" in names) and "sympy" in inspect.getsource(inspect.getmodule(cls)):
            parsing.add(name)
    assert evaluating == LITERALS
    assert parsing == FORMULAS


def test_lists_are_still_read_where_a_scorer_takes_them():
    env = made("spiral_matrix")
    env.reset(seed=0)
    task = env.current_task
    assert reward(env, task, f"<answer>[{', '.join(task['answer'].split())}]</answer>")[0] == 0.1


def test_only_the_full_score_counts_as_solved():
    env = made("spiral_matrix")
    env.reset(seed=0)
    task = env.current_task
    earned, metrics = reward(env, task, f"<answer>[{', '.join(task['answer'].split())}]</answer>")
    assert (earned, metrics["success"]) == (0.1, 0.0)
    earned, metrics = reward(env, task, f"<answer>{task['answer']}</answer>")
    assert (earned, metrics["success"]) == (1.0, 1.0)


@pytest.mark.parametrize("text", ["2*x**3 - sin(x)/4 + C", "(1 + 2) * 3.5", "-exp(2*x)", "asin(x) + log(x, 2)"])
def test_formulas(text):
    assert is_formula(text)


@pytest.mark.parametrize(
    "text",
    ["x.__class__", "x. diff(x)", "'a'", "f(lambda x: x)", "open(x)", "__import__", "[1]", "x if x else y", "1" * 1001],
)
def test_what_is_no_formula(text):
    assert not is_formula(text)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_formula_or_none(text):
    if is_formula(text):
        assert not set(text) & set("_'\"[]{}:")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer> or <answer> 2\n3 </answer>.", "2\n3"),
        ("<answer><answer>1</answer>", "1"),
        ("<answer></answer>", ""),
        ("</answer><answer>1", None),
        ("<answer>1", None),
        ("1</answer>", None),
    ],
)
def test_the_text_between_the_last_marks(text, answer):
    assert text_between(text, "<answer>", "</answer>") == answer


def test_scoring_that_never_ends_is_ended_and_costs_its_own_episode():
    env = made("countdown", score_limit_s=6.0)
    env.reset(seed=1)
    task = env.current_task
    started = time.perf_counter()
    assert reward(env, task, "<answer>9**9**9**9</answer>") == (
        0.0,
        {"answered": 1.0, "scorer_errors": 0.0, "scorer_timeouts": 1.0, "success": 0.0},
    )
    assert time.perf_counter() - started < 60
    assert reward(env, task, f"<answer>{task['answer']}</answer>")[0] == 1.0


def test_a_scorer_that_raises_is_counted():
    env = made("prime_factorization")
    env.reset(seed=1)
    metrics = {"answered": 1.0, "scorer_errors": 1.0, "scorer_timeouts": 0.0, "success": 0.0}
    assert reward(env, env.current_task, "<answer>two</answer>") == (0.0, metrics)
    assert reward(env, env.current_task, "no marks")[1]["answered"] == 0.0


def test_a_process_that_was_killed_is_started_anew():
    process = Process()
    try:
        request = {"name": "gcd", "config": {}, "seed": 4}
        first = process.ask(request, 60)
        process._running.kill()
        process._running.wait(5)
        assert process.ask(request, 60) == first
        with pytest.raises(Failed, match="KeyError"):
            process.ask({"name": "gcd", "config": {}}, 60)
        with pytest.raises(TooLong, match=r"longer than 0\.001 s for a task of 'knight_swap', seed 5"):
            process.ask({"name": "knight_swap", "config": {}, "seed": 5}, 0.001)
    finally:
        process.close()


def test_a_process_that_cannot_start_is_named(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(
        RuntimeError, match="does not start: the process of reasoning-gym ended at its start: exit code"
    ):
        Process().ask({"name": "gcd", "config": {}, "seed": 4}, 60)
    assert not issubclass(RuntimeError, Ended)


def test_threads_share_the_process():
    found = {}

    def play(number):
        env = made("gcd")
        task = env.task(number)
        found[number] = reward(env, task, f"<answer>{task['answer']}</answer>")[0]

    threads = [threading.Thread(target=play, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(8), 1.0)


@pytest.mark.parametrize("name", ["chain_sum", "rush_hour", "list_functions"])
def test_both_checkers_are_clean(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made(name))
    envs.check_environment(made(name, split="heldout" if name == "chain_sum" else "train"))


def test_the_mix_of_several_generators():
    env = made("composite", config={"datasets": [{"name": "gcd"}, {"name": "countdown", "weight": 2.0}]})
    questions = [env.task(index)["question"] for index in range(20)]
    assert 3 < sum("GCD" in question for question in questions) < 17
    envs.check_environment(env)
    index = next(i for i in range(20) if "GCD" not in questions[i])
    assert reward(env, env.task(index), "<answer>__import__('os')</answer>")[0] == 0.0


def test_a_task_of_other_settings_is_refused():
    task = made("chain_sum").task(0)
    env = made("chain_sum", config={"min_terms": 7, "max_terms": 7})
    env.reset(options={"task": task})
    with pytest.raises(ValueError, match="made with other settings"):
        env.step("<answer>1</answer>")


def test_splits_share_no_question():
    questions = {
        split: {made("coin_flip", split=split, seed=seed).task(i)["question"] for seed in (0, 1) for i in range(10)}
        for split in ("train", "heldout", "ood", "tuning")
    }
    assert all(len(found) > 3 for found in questions.values())
    assert sum(map(len, questions.values())) == len(set().union(*questions.values()))


def test_settings_reach_the_generator():
    env = made("chain_sum", config={"min_terms": 5, "max_terms": 5})
    observation, _ = env.reset(seed=0)
    assert len([c for c in observation[0]["content"].split("\n")[0] if c in "+-"]) >= 4
    assert env.task(0) == made("chain_sum", config={"max_terms": 5, "min_terms": 5}).task(0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "countdwn"}, r"kwargs\.name is no generator of reasoning-gym, got 'countdwn'\. Did you mean 'countd"),
        ({"name": "zzzz"}, r"kwargs\.name is no generator .* There are: ab, acre, .*zebra_puzzles"),
        ({"name": 3}, r"kwargs\.name must be the name of a generator, got 3"),
        (
            {"name": "gcd", "config": {"min_number": 1}},
            r"config\.min_number is no setting of gcd, got 1\. Did you mean",
        ),
        ({"name": "gcd", "config": {"seed": 1}}, r"config\.seed is set by the environment, got 1"),
        ({"name": "gcd", "config": {"min_numbers": -1}}, r"config must be settings that gcd accepts \(AssertionError"),
        ({"name": "gcd", "config": [1]}, r"config must hold settings by name, got \[1\]"),
        ({"name": "gcd", "score_limit_s": 0}, r"score_limit_s must lie in \[0\.1, 600\], got 0"),
        ({}, r"kwargs\.name is needed by ReasoningGymEnv"),
    ],
)
def test_wrong_arguments_are_explained(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        envs.make(ID, kwargs)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package reasoning-gym, got 'gcd'.* extra `reasoning-gym`"):
        ReasoningGymEnv(name="gcd")
