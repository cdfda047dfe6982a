"""Check 12: the repaired toys load, generate, and are less sure of themselves than after fusion alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.rejuvenation import RejuvenationConfig
from examples.toy.ladder import LADDERS, demonstrations
from orchestrator.rejuvenating import turn_pairs
from policies.rendering import load_renderer
from rejuvenation import Report, transform

TOYS = Path("examples/toy")

GENERATE = """
import sys
from configs.rollout import RolloutConfig
from policies.engine import Engine, GenerationRequest
config = RolloutConfig(max_model_len=128, max_num_seqs=4, kv_cache_bytes=1 << 24, dtype="float32")
engine = Engine(config, sys.argv[1], load_weights=True, in_process=True)
(found,) = engine.generate([GenerationRequest("r", [5, 6, 7], 0, 12, 0.0)])
print("tokens", *found.token_ids)
engine.close()
"""
"""vLLM reads the checkpoint with its own loader."""


@pytest.fixture(scope="module", params=LADDERS)
def repaired(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Report]:
    task = request.param
    renderer = load_renderer(str(TOYS / task / "sft_over"))
    pairs = [
        pair
        for messages in demonstrations(LADDERS[task])[:24]
        for pair in turn_pairs(*renderer.training_example(messages))
    ]
    out = tmp_path_factory.mktemp(task) / "out"
    config = RejuvenationConfig(rho=0.002)
    return task, out, transform(TOYS / task / "base", TOYS / task / "sft_over", out, config, pairs, seed=0)


def test_reset_raises_the_entropy_of_target_tokens_above_that_of_fusion_alone(repaired: tuple) -> None:
    entropy = repaired[2].entropy_at_targets
    assert entropy.rejuvenated > 1.1 * entropy.fused > entropy.sft
    assert repaired[2].num_reset > 0


def test_repaired_checkpoint_loads_in_transformers_and_generates(repaired: tuple) -> None:
    task, out, _ = repaired
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    prompt = tokenizer.apply_chat_template(demonstrations(LADDERS[task])[0][:1], add_generation_prompt=True)[
        "input_ids"
    ]
    answer = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)[0, len(prompt) :]
    assert len(answer) > 1
    assert tokenizer.decode(answer, skip_special_tokens=True).strip()
    sft = AutoTokenizer.from_pretrained(TOYS / task / "sft_over")
    assert (sft.get_vocab(), sft.chat_template) == (tokenizer.get_vocab(), tokenizer.chat_template)


@pytest.mark.parametrize("repaired", ["math"], indirect=True)
def test_repaired_checkpoint_loads_in_vllm_and_generates_what_transformers_does(repaired: tuple) -> None:
    _, out, _ = repaired
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, str(out)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [int(token) for token in done.stdout.split("tokens ")[1].split()]
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    expected = model.generate(torch.tensor([[5, 6, 7]]), do_sample=False, max_new_tokens=12)[0, 3:].tolist()
    assert found == expected
