"""Evaluation suites on the real engine with the shipped toys: several environments, a broken one, results as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from envs import ConversationEnv, make
from orchestrator.compare import Arm
from orchestrator.evaluation import read, read_all

MATH = "examples/toy/math/sft_over"
ARITHMETIC = {"split": "heldout", "operations_min": 2, "operations_max": 2, "operand_max": 20}


class Broken(ConversationEnv):
    """Can be made, but its service is gone when an episode begins."""

    def sample_task(self, rng):
        return {"number": int(rng.integers(1_000_000))}

    def first_messages(self, task):
        raise ConnectionError("no service at 10.0.0.7")

    def respond(self, text):
        raise AssertionError


def write_suite(folder: Path) -> Path:
    """Arithmetic, a tool, multiple choice, and between them an environment that fails."""
    rows = [{"question": f"{n}+1=", "choices": [str(n), str(n + 1)], "answer": str(n + 1)} for n in range(6)]
    (folder / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = [
        {
            "name": "sums",
            "environment": "rejuvenate/Arithmetic-v0",
            "kwargs": ARITHMETIC,
            "tasks": 16,
            "max_tokens": 24,
        },
        {
            "name": "broken",
            "kind": "ood",
            "environment": "tests.orchestrator.test_integration_suite:Broken",
            "tasks": 3,
        },
        {
            "name": "lookup",
            "kind": "ood",
            "environment": "rejuvenate/Lookup-v0",
            "kwargs": {"error_text": "?"},
            "tasks": 4,
            "samples": 3,
            "k": 1,
            "temperature": 0.5,
            "max_tokens": 16,
        },
        {
            "name": "choice",
            "kind": "ood",
            "environment": "envs.question_answer:QuestionAnswerEnv",
            "kwargs": {"path": str(folder / "choice.jsonl"), "form": "choice", "instruction": ""},
            "tasks": 6,
            "sampled_tasks": 2,
        },
    ]
    file = folder / "suite.yaml"
    file.write_text(json.dumps({"evaluation": {"samples": 4, "k": 2, "sets": sets}}))  # JSON is YAML
    return file


def rejuvenate(*arguments, timeout_s=500):
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "orchestrator", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_suite_of_several_environments_outlives_a_broken_one(tmp_path):
    out = tmp_path / "new" / "results.json"
    suite = write_suite(tmp_path)
    done = rejuvenate("eval", MATH, suite, "launcher=inline", "rollout.max_model_len=160", "--out", out)
    assert done.returncode == 1, done.stderr
    assert "rejuvenate: not measured: broken" in done.stderr
    text = json.loads(out.read_text())
    assert text["checkpoint"] == MATH
    assert text["complete"]
    assert text["rollout"]["max_model_len"] == 160
    sums, broken, lookup, choice = read(out).sets
    assert sums.greedy == greedy_answers(16), "as transformers decodes"
    assert 0 < sum(sums.greedy) < 16, "else the comparison says little"
    assert (len(sums.correct), sums.samples, sums.k) == (16, 4, 2)
    assert not broken.measured
    assert "all 3 greedy episodes failed, the first one as environment_error: " in broken.error
    assert "no service at 10.0.0.7" in broken.error
    assert (len(lookup.greedy), len(lookup.correct), lookup.samples, lookup.k) == (4, 4, 3, 1)
    assert (len(choice.greedy), len(choice.correct), choice.samples) == (6, 2, 4)
    assert [s.failed for s in (sums, broken, lookup, choice)] == [0, 3, 0, 0]

    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("results: ")) <= 80
    at = lines.index("sums: in distribution, 16 tasks, each sampled 4 times, pass@2")
    assert lines[at + 1].split()[0] == f"{sum(sums.greedy) / 16:.3f}"[1:]
    assert "broken: out of distribution" in " ".join(lines)
    assert "choice: out of distribution, 6 tasks, 2 of them sampled 4 times, pass@2" in lines


def greedy_answers(tasks):
    """[tasks] 1.0 where greedy decoding by transformers solves the task."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MATH, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MATH)
    found = []
    for index in range(tasks):
        env = make("rejuvenate/Arithmetic-v0", ARITHMETIC)
        messages, _ = env.reset(options={"task": env.unwrapped.task(index)})
        ids = tokenizer.apply_chat_template(
            [dict(m) for m in messages], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**ids, max_new_tokens=24, do_sample=False)
        answer = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        found.append(float(env.step(answer)[1] > 0))
    return found


@pytest.mark.slow
def test_run_is_evaluated_on_a_suite_and_compared_in_one_table(tmp_path):
    suite = write_suite(tmp_path)
    small = [
        "algorithm.steps=2",
        "algorithm.prompts_per_step=8",
        "evaluation.every_steps=1",
        "checkpoint.every_steps=0",
    ]
    for name, start in (("over", "sft"), ("repaired", "rejuvenated")):
        where = ["launcher=inline", f"run_dir={tmp_path}/{name}"]
        done = rejuvenate("run", "configs/math_toy.yaml", suite, *small, *where, f"model.start={start}")
        assert done.returncode == 0, done.stderr[-3000:]
        assert "broken: out of distribution" in done.stdout
        found = read_all(tmp_path / name)
        assert [e.step for e in found] == [0, 1, 2]
        assert [[s.measured for s in e.sets] for e in found] == [[True, False, True, True]] * 3
    figures = [json.loads(line) for line in (tmp_path / "over" / "metrics.jsonl").read_text().splitlines()]
    assert figures[0]["eval/broken/failed"] == 3
    assert "eval/broken/greedy" not in figures[0]
    assert figures[0]["eval/lookup/pass@1_low"] <= figures[0]["eval/lookup/pass@1"]
    done = rejuvenate("compare", tmp_path / "over", tmp_path / "repaired", "--output", tmp_path / "plot.png")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("curves: ")) <= 80
    for heading in ("sums: in distribution", "broken: out of dis", "lookup: out of dis", "choice: out of dis"):
        assert sum(line.startswith(heading) for line in lines) == 1
    assert lines.count("over") == lines.count("repaired") == 4
    assert len(Arm.read(tmp_path / "over").on("sums")) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("toy", "own"), [("math", (0.0, 0.05)), ("tool", (0.25, 0.34))])
def test_shipped_suite_measures_its_toy(toy, own, tmp_path):
    """On the run's own held-out tasks it finds what docs/results has of the over-trained checkpoint before RL."""
    out = tmp_path / "results.json"
    checkpoint, suite = f"examples/toy/{toy}/sft_over", f"configs/suites/{toy}_toy.yaml"
    done = rejuvenate("eval", checkpoint, suite, "launcher=inline", "rollout.threads=2", "--out", out)
    assert done.returncode == 0, done.stderr
    found = read(out)
    low, high = own
    assert low <= found.by_name("heldout").summary()["greedy"] <= high
    assert all(s.failed == 0 for s in found.sets)
    ood = [s for s in found.sets if s.kind == "ood"]
    assert done.stdout.count("in distribution") == 1
    assert done.stdout.count("out of distribution") == len(ood) >= 3
