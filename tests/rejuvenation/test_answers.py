from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from configs.rejuvenation import RejuvenationConfig
from examples.toy.ladder import LADDERS, demonstrations
from policies.rendering import load_renderer
from rejuvenation import Report, transform
from rejuvenation.answers import greedy_answers

BASE, SFT = Path("examples/toy/math/base"), Path("examples/toy/math/sft_over")
TASKS = demonstrations(LADDERS["math"])[:6]


def prompts() -> list[list[int]]:
    renderer = load_renderer(str(SFT))
    return [renderer.prompt(messages[:1]) for messages in TASKS]


def test_answers_are_the_greedy_ones_up_to_their_end() -> None:
    model = AutoModelForCausalLM.from_pretrained(SFT, dtype=torch.float32)
    end = model.generation_config.eos_token_id
    for pair, prompt in zip(greedy_answers(SFT, prompts(), RejuvenationConfig()), prompts(), strict=True):
        assert pair.prompt_ids == prompt
        token_ids = list(prompt)
        for token in pair.response_ids:
            with torch.no_grad():
                assert model(torch.tensor([token_ids])).logits[0, -1].argmax().item() == token
            token_ids.append(token)
        assert pair.response_ids[-1] == end
        assert end not in pair.response_ids[:-1]


def test_repair_from_prompts_is_the_repair_from_their_answers(tmp_path: Path) -> None:
    config = RejuvenationConfig(rho=0.002, calibration_pairs=4)
    drawn = transform(BASE, SFT, tmp_path / "prompts", config, prompts=prompts(), seed=0)
    assert drawn.num_pairs == 4
    assert drawn.notes[0] == "calibration pairs: greedy answers of the SFT checkpoint to 4 of 6 prompts"
    answers = greedy_answers(SFT, prompts(), config)
    all_six = RejuvenationConfig(rho=0.002, calibration_pairs=6)
    given = transform(BASE, SFT, tmp_path / "pairs", all_six, answers, seed=0)
    same = transform(BASE, SFT, tmp_path / "six", all_six, prompts=prompts(), seed=0)
    assert (given.counts, given.entropy_at_targets) == (same.counts, same.entropy_at_targets)
    assert given.num_reset >= drawn.num_reset > 0


def test_command_takes_prompts_alone(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": messages[0]["content"]}) + "\n" for messages in TASKS))
    command = [sys.executable, "-m", "rejuvenation", "transform", "--base", BASE, "--sft", SFT, "--rho", "0.002"]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "out"), "--prompts", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "greedy answers of the SFT checkpoint to 6 of 6 prompts" in done.stdout
    assert Report.load(tmp_path / "out").num_reset > 0
