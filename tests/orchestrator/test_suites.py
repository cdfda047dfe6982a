import fnmatch
import json
import tomllib
from pathlib import Path

import pytest

from configs.loader import load, read_yaml
from orchestrator import cli
from orchestrator.task_sets import check, task_sets

SUITES = sorted(Path("configs/suites").glob("*"))
RUNS = {
    "math_toy": "configs/math_toy.yaml",
    "tool_toy": "configs/tool_toy.yaml",
    "gsm8k": "configs/gsm8k_qwen2_0.5b.yaml",
}
"""Suite -> the configuration of the runs that it is for."""


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A home directory with data in the form that the suites expect."""
    monkeypatch.setenv("HOME", str(tmp_path))
    questions = [{"question": f"What is {i} plus 1?", "answer": f"One more.\n#### {i + 1}"} for i in range(500)]
    choices = [
        {"question": f"Which is {i}?", "choices": {"text": [str(i), "x"], "label": ["1", "2"]}, "answerKey": "1"}
        for i in range(500)
    ]
    for name, rows in (
        ("gsm8k/test.jsonl", questions),
        ("gsm8k/train.jsonl", questions),
        ("arc/challenge_test.jsonl", choices),
    ):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_suite_has_its_run():
    assert sorted(RUNS) == [suite.stem for suite in SUITES]


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_every_shipped_suite_evaluates_a_checkpoint_alone(suite):
    config = cli.validate_evaluation("organisation/name", [str(suite)])  # makes every environment
    assert set(read_yaml(suite)) <= {"evaluation", "rollout"}, "laid over a run it changes nothing else"
    assert {s.kind for s in config.evaluation.sets} == {"id", "ood"}
    assert len({s.environment.id for s in task_sets(config)}) > 1, "several environments"


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_every_shipped_suite_takes_the_place_of_its_run_s_sets(suite):
    run, alone = load([RUNS[suite.stem]]), cli.validate_evaluation("organisation/name", [str(suite)])
    config = load([RUNS[suite.stem], suite])
    check(task_sets(config), config.model)
    assert task_sets(config) == task_sets(alone), "the same sets, whatever the run is"
    assert config.rollout == run.rollout, "engines as the run has them"


@pytest.mark.parametrize("suite", ["math_toy", "tool_toy"])
def test_the_first_set_is_the_run_s_own_held_out_set(suite):
    own = task_sets(load([RUNS[suite]]))[0]
    first = task_sets(load([RUNS[suite], f"configs/suites/{suite}.yaml"]))[0]
    assert first == own


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_every_shipped_suite_is_packaged(suite):
    patterns = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["configs"]
    assert any(fnmatch.fnmatch(str(suite.relative_to("configs")), pattern) for pattern in patterns)


def test_the_documented_suite_is_one(tmp_path):
    text = Path("docs/environments.md").read_text().partition("## Evaluation suites")[2]
    (tmp_path / "suite.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    config = cli.validate_evaluation("organisation/name", [str(tmp_path / "suite.yaml")])
    assert [(s.name, s.kind, s.samples) for s in task_sets(config)] == [("heldout", "id", 8), ("lookup", "ood", 4)]
