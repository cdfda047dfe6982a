"""The toys that ship: size, shape, tokenizer, configurations."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from configs.checkpoint import check_model, read_config
from configs.loader import load
from envs.registry import make
from envs.splits import split_of
from examples.arms import ARMS, TASKS, arm_config
from examples.toy import math_documents
from examples.toy.ladder import LADDERS, demonstrations, ensure_moderate
from examples.toy.pretrain import PRETRAININGS
from examples.toy.tokenizer import build_tokenizer
from examples.toy.training import IGNORED, collate, pooled_batches
from policies.rendering import Renderer, load_renderer

TOY = Path("examples/toy")
CHECKPOINTS = [TOY / task / name for task in ("math", "tool") for name in ("base", "sft_over")]


def test_checkpoints_ship_in_six_megabytes():
    files = [file for checkpoint in CHECKPOINTS for file in checkpoint.iterdir()]
    assert sum(file.stat().st_size for file in files) <= 6_000_000


def test_all_checkpoints_have_one_shape_so_that_engines_can_be_reused():
    configs = [read_config("model", str(checkpoint)) for checkpoint in CHECKPOINTS]
    assert all(config == configs[0] for config in configs)


@pytest.mark.parametrize("task", TASKS)
def test_tasks_agree_in_what_is_fixed_at_launch(task):
    math, other = load([TASKS["math"]]).rollout, load([TASKS[task]]).rollout
    for name in type(math).__dataclass_fields__:
        if name not in ("max_tokens", "temperature"):  # these travel with each call
            assert getattr(math, name) == getattr(other, name), name


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_valid_configuration(task, arm, tmp_path):
    config = arm_config(task, arm, tmp_path / "run", [], mod=TOY / task / "sft_over")
    check_model(config.model)


@pytest.mark.parametrize("task", TASKS)
def test_a_demonstration_fits_the_limits_and_earns_the_reward(task):
    """Rendered with the shipped tokenizer: no turn is longer than `max_tokens`, no episode than `max_model_len`."""
    config = load([TASKS[task]])
    renderer = load_renderer(config.model.sft)
    for overrides in ({}, *(s.kwargs for s in config.evaluation.sets)):
        env = make(config.environment.id, {**config.environment.kwargs, **overrides}).unwrapped
        for index in range(20):
            env.reset(options={"task": env.task(index)})
            token_ids, mask = renderer.training_example(env.demonstration())
            assert len(token_ids) <= config.rollout.max_model_len
            runs = "".join(map(str, mask)).split("0")
            assert max(map(len, runs)) <= config.rollout.max_tokens


def test_a_tool_call_is_three_tokens():
    renderer = load_renderer(TOY / "tool" / "base")
    call = '<tool_call>\n{"name": "lookup", "arguments": {"key": "a"}}\n</tool_call>'
    ids = renderer.tokenizer(call)["input_ids"]
    assert len(ids) == 3
    assert renderer.parse(ids) == call


def test_no_document_of_the_base_is_a_problem_that_evaluations_ask():
    rng = random.Random(3)
    problems = {math_documents.document(rng)[0]["content"] for _ in range(300)}
    assert {split_of(problem) for problem in problems} == {"train"}


@pytest.mark.parametrize("task", LADDERS)
def test_training_reads_the_assistant_and_nothing_else(task):
    recipe = PRETRAININGS[task]
    renderer = Renderer(build_tokenizer())
    documents = list(itertools.islice(pooled_batches(recipe.document, recipe.length, 8, seed=1, pool=2), 3))
    for conversations in (*documents, demonstrations(LADDERS[task])[:8]):
        token_ids, targets = collate(renderer, conversations)
        for row, messages in enumerate(conversations):
            said = "".join(m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant")
            assert renderer.tokenizer.decode(targets[row][targets[row] != IGNORED]) == said
            assert (token_ids[row][targets[row] != IGNORED] == targets[row][targets[row] != IGNORED]).all()


@pytest.mark.slow
@pytest.mark.parametrize("task", LADDERS)
def test_moderate_checkpoint_is_built_once_from_the_shipped_base(task, tmp_path):
    directory = ensure_moderate(task, tmp_path / "mod")
    assert read_config("model", str(directory)) == read_config("model", str(TOY / task / "base"))
    written = (directory / "model.safetensors").read_bytes()
    assert written != (TOY / task / "base" / "model.safetensors").read_bytes()
    before = (directory / "model.safetensors").stat().st_mtime_ns
    assert ensure_moderate(task, directory) == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == before
