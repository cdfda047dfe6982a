"""What the process that holds reasoning-gym does: make tasks, and score answers without running them as code.

Several scorers of the package evaluate the answer as Python. Here lists are read as literals, and what goes to sympy's
parser must be a plain formula; any other text is a wrong answer.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import json
import random
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from envs.reasoning_gym.formulas import is_formula

LITERALS = frozenset({"binary_matrix", "n_queens", "number_sorting", "spiral_matrix", "string_insertion"})
"""Generators whose scorer calls `eval` on a list that the model writes."""
FORMULAS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Generators whose scorer gives the answer to sympy's parser, which calls `eval`."""
COMPOSITE = "composite"
"""The generator that mixes others, `config: {datasets: [{name: ..., weight: ..., config: {}}]}`."""
_OWN = ("seed", "size")


def answer_to(request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a request asks for.

    Args:
        request: `name`, `config` (settings of the generator), `seed`, and `answer` where one is to be scored.

    Returns:
        `question` and `answer` (None: the package gives none), or `score`; `problem` with `field`, `rule` and `fix`
        where the generator cannot be made.
    """
    name, config, seed = request["name"], json.dumps(request["config"], sort_keys=True), request["seed"]
    problem = problem_of(name, config)
    if problem is not None:
        return {"problem": problem}
    if "answer" in request:
        return {"score": score(name, config, seed, request["answer"])}
    entry = _entry(name, config, seed)
    return {"question": entry["question"], "answer": entry["answer"]}


@functools.lru_cache(maxsize=256)
def problem_of(name: str, config: str) -> dict[str, str] | None:
    """Return what is wrong with a name or its settings as `field`, `rule` and `fix`; None where nothing is."""
    known = _datasets()
    if name not in known:
        return {"field": "name", "rule": "is no generator of reasoning-gym", "fix": _near(name, known, "There are")}
    accepted = [field.name for field in fields(known[name][1]) if field.name not in _OWN]
    for setting in json.loads(config):
        if setting in _OWN:
            rule, fix = "is set by the environment", "Leave it out: the environment's own seed gives the tasks."
            return {"field": f"config.{setting}", "rule": rule, "fix": fix}
        if setting not in accepted:
            rule, fix = f"is no setting of {name}", _near(setting, accepted, "It takes")
            return {"field": f"config.{setting}", "rule": rule, "fix": fix}
    try:
        _scorer(name, config)
    except Exception as error:  # the package checks its settings by assertions, and some only by failing
        rule = f"must be settings that {name} accepts ({type(error).__name__}: {error})"
        return {"field": "config", "rule": rule[:500], "fix": f"It takes: {', '.join(accepted)}."}
    return None


def score(name: str, config: str, seed: int, answer: str) -> float:
    """Score an answer by the generator's own scorer.

    Raises:
        Exception: whatever the scorer raises, as some do on text of another form.
    """
    entry = _entry(name, config, seed)
    scorer = entry["metadata"].get("source_dataset", name) if name == COMPOSITE else name
    if scorer in FORMULAS and not is_formula(answer):
        return 0.0
    return float(_scorer(name, config).score_answer(answer, entry))


@functools.lru_cache(maxsize=1)
def _datasets() -> dict[str, Any]:
    """Return name -> (class, class of its settings), with `eval` closed where scorers call it."""
    importlib.import_module("reasoning_gym")
    from reasoning_gym.composite import CompositeDataset  # registers itself when it is imported
    from reasoning_gym.factory import DATASETS

    assert DATASETS[COMPOSITE][0] is CompositeDataset
    for name in LITERALS:
        vars(sys.modules[DATASETS[name][0].__module__])["eval"] = ast.literal_eval
    return dict(DATASETS)


@functools.lru_cache(maxsize=16)
def _scorer(name: str, config: str) -> Any:
    """Return a generator that scores; what it scores by stands in the task, so that its seed is of no importance."""
    return _made(name, config, 0)


@functools.lru_cache(maxsize=1024)
def _entry(name: str, config: str, seed: int) -> dict[str, Any]:
    """Return the one task of a generator with this seed."""
    entry: dict[str, Any] = _made(name, config, seed)[0]
    return entry


def _made(name: str, config: str, seed: int) -> Any:
    """Make a generator of one task; the seed of Python's own generator is for those that draw from it."""
    from reasoning_gym import create_dataset
    from reasoning_gym.composite import DatasetSpec

    random.seed(seed)
    settings = json.loads(config)
    if name == COMPOSITE and "datasets" in settings:
        settings["datasets"] = [DatasetSpec(**{"weight": 1.0, "config": {}} | one) for one in settings["datasets"]]
    return create_dataset(name, seed=seed, size=1, **settings)


def _near(name: str, known: Any, otherwise: str) -> str:
    """Return a hint at the name that was meant."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"{otherwise}: {', '.join(sorted(known))}."
