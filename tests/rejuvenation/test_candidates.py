from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from configs.auto import AutoConfig
from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from envs.registry import make
from rejuvenation import Report, TokenPair, cli, load_pairs, transform
from rejuvenation.alignment import Alignment
from rejuvenation.candidates import Candidates
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.choice_table import WIDTH
from rejuvenation.page import PAGE_FILE
from rejuvenation.scored_model import load_model
from tests.rejuvenation.test_page import Outline
from tests.rejuvenation.tiny import moved, qwen2, save, token_pairs

BASE, SFT = Path("examples/toy/math/base"), Path("examples/toy/math/sft_over")
PAIRS = token_pairs(6)
SMALL = AutoConfig(alphas=[0.5], rhos=[0.01, 0.05], prompts=4, samples=2, k=2, max_new_tokens=4)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(CheckpointReader(path).items())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Base and SFT checkpoint without a tokenizer: responses read as numbers."""
    path = tmp_path_factory.mktemp("tiny")
    base = qwen2(0)
    return save(base, path / "base"), save(moved(base, 1), path / "sft")


def auto(**settings: object) -> RejuvenationConfig:
    return RejuvenationConfig(**{"alpha": "auto", "rho": "auto", "target_tokens": 3, "auto": SMALL, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", ["attribution", "gradient_magnitude", "random"])
def test_candidates_of_one_scoring_are_what_transform_writes(
    tmp_path: Path, tiny: tuple[Path, Path], criterion: str
) -> None:
    config = auto(steps=["fusion.linear", f"reset.{criterion}"])
    alignment = Alignment(CheckpointReader(tiny[0]), CheckpointReader(tiny[1]))
    candidates = Candidates(alignment, config, seed=3)
    candidates.score(load_model(tiny[1], config), PAIRS)
    for alpha, rho in ((0.5, 0.01), (0.3, 0.05), (0.5, 0.0), (1.0, 0.0)):
        fixed = RejuvenationConfig(steps=config.steps, target_tokens=3, alpha=alpha, rho=rho)
        report = transform(*tiny, tmp_path / f"{alpha}-{rho}", fixed, PAIRS, seed=3)
        written = weights(tmp_path / f"{alpha}-{rho}")
        assert candidates.reset_ratio(rho) == pytest.approx(report.effective_ratio)
        for name, tensor in candidates.weights(alpha, rho).items():
            assert torch.equal(tensor, written[name]), name
    assert 0.0 < candidates.reset_ratio(0.01) < candidates.reset_ratio(0.05)


def test_checkpoint_that_solves_all_is_written_as_it_is(tmp_path: Path, tiny: tuple[Path, Path]) -> None:
    prompts = [pair.prompt_ids for pair in PAIRS]
    report = transform(*tiny, tmp_path / "out", auto(), PAIRS, prompts=prompts, reward=lambda i, text: 1.0, seed=0)
    assert (report.alpha, report.rho, report.num_reset) == (1.0, 0.0, 0)
    assert report.choice is not None
    assert report.choice.needs_no_repair
    assert [(trial.alpha, trial.rho) for trial in report.choice.trials] == [
        (1.0, 0.0), (0.5, 0.0), (1.0, 0.01), (1.0, 0.05),
    ]  # fmt: skip
    assert report.choice.judged_by == "2 rollouts of each of 4 prompts, graded by a reward of the caller"
    out, sft = weights(tmp_path / "out"), weights(tiny[1])
    assert all(torch.equal(out[name].view(torch.uint8), sft[name].view(torch.uint8)) for name in sft)
    assert "No repair is needed" in (tmp_path / "out" / PAGE_FILE).read_text()
    assert Report.load(tmp_path / "out") == report


def test_repair_that_alone_is_rewarded_is_written_as_by_its_numbers(tmp_path: Path, tiny: tuple[Path, Path]) -> None:
    """The reward tells candidates apart by their turn: the fourth is (0.5, 0.01)."""
    graded = 0

    def reward(index: int, text: str) -> float:
        nonlocal graded
        graded += 1
        return float(8 < graded <= 16 if graded <= 16 else 16 < graded <= 24)

    prompts = [pair.prompt_ids for pair in PAIRS]
    report = transform(*tiny, tmp_path / "auto", auto(), PAIRS, prompts=prompts, reward=reward, seed=0)
    assert report.choice is not None
    # (1, 0): nothing, (0.5, 0) and (0.5, 0.01): everything, (0.5, 0.05): nothing
    trials = report.choice.trials
    assert [trial.pass_at_1 for trial in trials] == [0.0, 1.0, 1.0, 0.0]
    assert trials[2].entropy > trials[1].entropy, "of equal ones the one with the most entropy"
    assert (report.alpha, report.rho) == (0.5, 0.01)
    fixed = RejuvenationConfig(alpha=0.5, rho=0.01, target_tokens=3)
    transform(*tiny, tmp_path / "fixed", fixed, PAIRS, seed=0)
    out, expected = weights(tmp_path / "auto"), weights(tmp_path / "fixed")
    assert all(torch.equal(out[name], expected[name]) for name in expected)


def test_chosen_reset_is_reported_as_a_scoring_of_its_own_would(tmp_path: Path, tiny: tuple[Path, Path]) -> None:
    turns = iter([0, 0, 1, 0])  # (0.6, 0), then rhos .01 .05 .05: only rho .01 is rewarded
    count, now = 0, 0

    def reward(index: int, text: str) -> float:
        nonlocal count, now
        now = next(turns) if count % 8 == 0 else now
        count += 1
        return float(now == 1)

    settings = AutoConfig(rhos=[0.001, 0.01, 0.05], prompts=4, samples=2, k=2, max_new_tokens=4)
    prompts = [pair.prompt_ids for pair in PAIRS]
    config = auto(alpha=0.6, auto=settings)
    report = transform(*tiny, tmp_path / "auto", config, PAIRS, prompts=prompts, reward=reward, seed=0)
    fixed = RejuvenationConfig(alpha=0.6, rho=0.01, target_tokens=3)
    expected = transform(*tiny, tmp_path / "fixed", fixed, PAIRS, seed=0)
    assert (report.alpha, report.rho) == (0.6, 0.01)
    for name in ("counts", "entropy_at_targets", "reconstruction_error", "effective_ratio", "num_target_tokens"):
        assert getattr(report, name) == getattr(expected, name), name
    assert report.hashes["output"] == expected.hashes["output"]


def test_without_a_reward_entropy_on_the_pairs_decides(tmp_path: Path, tiny: tuple[Path, Path]) -> None:
    config = auto(auto=AutoConfig(alphas=[0.5], rhos=[0.05], entropy_ratio=10.0))
    report = transform(*tiny, tmp_path / "out", config, PAIRS, seed=0)
    assert report.choice is not None
    assert "nothing can be graded" in report.choice.rule
    assert report.choice.judged_by == "the responses of 6 calibration pairs, teacher-forced"
    most = max(report.choice.trials, key=lambda trial: trial.entropy)
    assert (report.alpha, report.rho) == (most.alpha, most.rho), "none gives back ten times the base's: the most"
    assert report.entropy_on_responses is not None
    assert most.entropy == pytest.approx(report.entropy_on_responses.rejuvenated, rel=1e-5)


def test_nothing_to_try_candidates_on_is_an_error_before_anything_is_written(
    tmp_path: Path, tiny: tuple[Path, Path]
) -> None:
    with pytest.raises(ConfigError, match=r"rejuvenation\.alpha can be auto only with prompts whose answers are known"):
        transform(*tiny, tmp_path / "out", auto(steps=["fusion.linear"], rho=0.0), seed=0)
    assert not (tmp_path / "out").exists()
    line = ["transform", "--base", str(tiny[0]), "--sft", str(tiny[1]), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.app, [*line, "--steps", "fusion.linear", "--alpha", "auto", "--rho", "0"])
    assert result.exit_code == 2
    assert "--alpha can be auto only with prompts" in result.stderr


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training tasks of the math toy: prompts with answers, and conversations."""
    path = tmp_path_factory.mktemp("tasks")
    env = make("rejuvenate/Arithmetic-v0", {"operations_min": 2, "operations_max": 2, "operand_max": 20, "seed": 5})
    prompts, conversations = [], []
    for index in range(16):
        env.unwrapped.reset(options={"index": index})
        messages = env.unwrapped.demonstration()
        answer = messages[-1]["content"].rpartition("#")[2]
        prompts.append(json.dumps({"prompt": messages[0]["content"], "answer": answer}))
        conversations.append(json.dumps({"messages": messages}))
    (path / "prompts.jsonl").write_text("\n".join(prompts) + "\n")
    (path / "conversations.jsonl").write_text("\n".join(conversations) + "\n")
    return path / "prompts.jsonl", path / "conversations.jsonl"


TOY = ["answer_marker='#'", "max_new_tokens=24", "samples=4", "k=4", "alphas=[0.4]", "rhos=[0.002]"]


def test_command_repairs_the_over_trained_toy_and_shows_the_table(tmp_path: Path, tasks: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    line = ["transform", "--base", BASE, "--sft", SFT, "--out", out, "--calibration", tasks[1], "--prompts", tasks[0]]
    line += ["--alpha", "auto", "--rho", "auto", *(word for text in TOY for word in ("--auto", text))]
    result = CliRunner().invoke(cli.app, list(map(str, line)), catch_exceptions=False)
    assert result.exit_code == 0
    report = Report.load(out)
    assert report.choice is not None
    assert report.alpha == 0.4, "on easy tasks the fused toy solves far more than the over-trained one"
    shown = result.stdout.splitlines()
    about = "auto about 3 candidates, each on 4 rollouts of at most 128 prompts (without answers: on the pairs)"
    assert about in " ".join(result.stdout.split())
    begin = next(place for place, text in enumerate(shown) if text.startswith("auto: taken: alpha 0.4"))
    end = next(place for place, text in enumerate(shown) if text.startswith(f"{out}: reset"))
    assert max(len(text) for text in shown[begin:end]) <= WIDTH
    assert sum(bool(re.match(r"[>+ ]\s+(1|0\.4)\s", text)) for text in shown[begin:end]) == 3
    text = " ".join(Outline((out / PAGE_FILE).read_text(encoding="utf-8")).text.split())
    assert "How alpha and rho were chosen" in text
    assert report.choice.sentence[1:] in text
    for trial in report.choice.trials:
        assert f"{trial.pass_at_k:.3f}±{trial.pass_at_k_error:.3f}" in text


def test_final_answers_of_calibration_responses_stand_in_for_answers(tmp_path: Path, tasks: tuple[Path, Path]) -> None:
    settings = AutoConfig(answer_marker="#", max_new_tokens=24, samples=4, k=4, alphas=[0.4], rhos=[0.002])
    config = RejuvenationConfig(alpha="auto", rho=0.0, auto=settings)
    report = transform(BASE, SFT, tmp_path / "out", config, load_pairs(tasks[1], SFT), seed=0)
    assert report.choice is not None
    assert "16 prompts, graded by" in report.choice.judged_by
    assert report.alpha == 0.4
    unknown = [TokenPair(pair.prompt_ids, pair.response_ids[-1:]) for pair in load_pairs(tasks[1], SFT)]
    blind = transform(BASE, SFT, tmp_path / "blind", config, unknown, seed=0)
    assert blind.choice is not None
    assert "nothing can be graded" in blind.choice.rule
