"""The toys that ship: size, shape, tokenizer, configurations."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.checkpoint import check_model, read_config
from configs.loader import load
from envs.registry import make
from envs.splits import split_of
from examples import study, study_auto
from examples.arms import ARMS, BUILT, TASKS, arm_config
from examples.demo import SHOWN
from examples.toy import math_documents, training
from examples.toy.checkpoint import load_model
from examples.toy.ladder import BATCH_SIZE, LADDERS, Rung, demonstrations, ensure_rung
from examples.toy.pretrain import PRETRAININGS
from examples.toy.tokenizer import build_tokenizer
from examples.toy.training import IGNORED, collate, pooled_batches, shuffled_passes
from orchestrator.compare import Arm
from orchestrator.evaluation import Evaluation, SetResult, evaluation_file, write
from policies import losses
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
    for name in BUILT:
        (tmp_path / name).symlink_to((TOY / task / "sft_over").resolve())
    config = arm_config(task, arm, tmp_path / "run", [], rungs=tmp_path)
    check_model(config.model)
    assert config.model.sft == (str(tmp_path / arm) if arm in BUILT else str(TOY / task / "sft_over"))


def test_demo_builds_no_checkpoint_and_a_study_those_of_its_arms_alone(monkeypatch, tmp_path):
    assert not set(SHOWN) & set(BUILT)
    asked = []
    monkeypatch.setattr(study, "ensure_rung", lambda *of: asked.append(of))
    monkeypatch.setattr(study, "is_finished", lambda config: True)
    study.run_all("math", [0, 1], tmp_path, ["rejuvenated", "over", "dft"], None)
    assert asked == [("math", "sft_dft", tmp_path / "dft")]


def test_study_reports_means_over_seeds_with_an_interval_of_the_gain():
    def arm(before, after):
        sets = ([SetResult("heldout", "id", 2, solved, [1, 2], 2, 0.1, 0.0)] for solved in (before, after))
        return Arm("x", [Evaluation(step, found) for step, found in zip((0, 10), sets, strict=True)], [])

    over = {0: arm([0.0, 0.0], [0.0, 0.0]), 1: arm([0.0, 0.0], [1.0, 0.0])}
    rejuvenated = {0: arm([0.0, 1.0], [1.0, 1.0]), 1: arm([1.0, 1.0], [1.0, 1.0])}
    text, values = study.report("math", {"rejuvenated": rejuvenated, "over": over}, "make study-math", [])
    assert "## heldout (in distribution, 2 problems)" in text
    assert "| over | 2 | greedy | 0.000 | 0.250 | +0.250 [" in text
    found = values["sets"]["heldout"]
    assert found["arms"]["rejuvenated"]["greedy"] | {"gain_low": 0, "gain_high": 0} == {
        "before": 0.75, "after": 1.0, "gain": 0.25, "area": 0.875, "gain_low": 0, "gain_high": 0,
    }  # fmt: skip
    assert found["claims"]["endpoint of rejuvenated minus endpoint of over"]["mean"] == 0.75


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


def test_dft_of_the_toys_is_that_of_the_learner():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0]], requires_grad=True)
    targets = torch.tensor([0, 2])
    logprobs = logits.log_softmax(-1)[torch.arange(2), targets]
    inputs = losses.LossInputs(logprobs, logprobs, logprobs, None, None, losses.Loss("dft"))
    total, _ = losses.dft(inputs)
    (wanted,) = torch.autograd.grad(total / 2, logits)
    found = training.dft(logits, targets)
    torch.testing.assert_close(found, total / 2)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], wanted)


def test_dft_rung_is_the_recipe_of_over_with_another_loss(monkeypatch, tmp_path):
    """Two steps of it, against two that are written out here."""
    assert LADDERS["tool"].rungs["sft_dft"].steps == LADDERS["tool"].rungs["sft_over"].steps
    ladder = replace(LADDERS["tool"], rungs={"sft_over": Rung(2), "sft_dft": Rung(2, "dft")})
    monkeypatch.setitem(LADDERS, "tool", ladder)
    over = load_model(ensure_rung("tool", "sft_over", tmp_path / "over"))
    found = load_model(ensure_rung("tool", "sft_dft", tmp_path / "dft"))

    model = load_model(TOY / "tool" / "base")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    batches = shuffled_passes(demonstrations(ladder), BATCH_SIZE, ladder.seed)
    for _ in range(2):
        token_ids, targets = collate(Renderer(build_tokenizer()), next(batches))
        logprobs = model(input_ids=token_ids).logits[:, :-1].log_softmax(-1)
        scored = targets[:, 1:] != IGNORED
        gold = logprobs[scored].gather(1, targets[:, 1:][scored][:, None])
        (gold.exp().detach() * -gold).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    wanted, dft, cross_entropy = (
        torch.cat([parameter.detach().flatten() for parameter in m.parameters()]).bfloat16()  # as on disk
        for m in (model, found, over)
    )
    assert (dft == wanted).float().mean() > 0.99
    assert (cross_entropy == wanted).float().mean() < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("task", LADDERS)
def test_moderate_checkpoint_is_built_once_from_the_shipped_base(task, tmp_path):
    directory = ensure_rung(task, "sft_mod", tmp_path / "mod")
    assert read_config("model", str(directory)) == read_config("model", str(TOY / task / "base"))
    written = (directory / "model.safetensors").read_bytes()
    assert written != (TOY / task / "base" / "model.safetensors").read_bytes()
    before = (directory / "model.safetensors").stat().st_mtime_ns
    assert ensure_rung(task, "sft_mod", directory) == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == before


def test_auto_is_compared_on_ladders_and_seeds_of_its_own_by_runs_that_differ_in_alpha_and_rho_alone(tmp_path):
    runs = list(study_auto.planned(list(study_auto.CASES), tmp_path))
    assert len({config.run_dir for _, _, config in runs}) == len(runs)
    seeds = sum(len(case.seeds) for case in study_auto.CASES.values())
    assert len(runs) == seeds * (1 + len(study_auto.FIXED))
    first = {name for name, _, _ in runs[: 2 * (1 + len(study_auto.FIXED))]}
    assert first == set(study_auto.CASES), "one seed of every case comes before the next"
    for name, setting, config in runs:
        repair = config.rejuvenation
        assert (repair.alpha, repair.rho) == (setting or ("auto", "auto"))
        twin = study_auto.run_config(name, None, config.seed, tmp_path)
        same = replace(config, run_dir=twin.run_dir, rejuvenation=replace(repair, alpha="auto", rho="auto"))
        assert same == twin
        assert config.seed > 100, "not the seeds of the other studies"
    assert all(case.ladder not in (None, *LADDERS.values()) for case in study_auto.CASES.values())
    texts = [messages[0]["content"] for messages in demonstrations(study_auto.CASES["math"].ladder)]
    shipped = {messages[0]["content"] for messages in demonstrations(LADDERS["math"])}
    assert len(set(texts) - shipped) > 0.9 * len(texts), "other problems"


def finished(run_dir, greedy):
    """What a study reads of a run: one evaluation before RL and one after."""
    (run_dir / "evaluations").mkdir(parents=True)
    for step, right in ((0, 0), (30, greedy)):
        result = SetResult("heldout", "id", 8, [1.0] * right + [0.0] * (20 - right), [4] * 20, 8, 0.1, 0.0)
        write(Evaluation(step, [result]), evaluation_file(run_dir, step))
    (run_dir / "versions.json").write_text('{"git": "abc"}')
    (run_dir / "choice.json").write_text('{"sentence": "taken: alpha 0.4, rho 0"}')


@pytest.mark.parametrize(("auto", "within"), [(19, True), (18, False)])
def test_study_says_plainly_whether_auto_is_within_five_percent(tmp_path, monkeypatch, auto, within):
    monkeypatch.setattr(study_auto, "is_finished", lambda config: True)
    for name in study_auto.CASES:
        for _, setting, config in study_auto.planned([name], tmp_path):
            finished(Path(config.run_dir), {None: auto, (0.5, 0.0): 20}.get(setting, 10))
    text, values = study_auto.report({name: study_auto.read(name, tmp_path) for name in study_auto.CASES})
    for case in values["cases"].values():
        assert case["best_fixed"] == {"alpha": 0.5, "rho": 0.0}
        assert case["auto_over_best"] == auto / 20
        assert case["within_5_percent"] is within
        assert case["picked_on_other_seeds"]["auto_over_it"] == auto / 20, "the same one is the best on any seeds"
    assert ("**not** within 5 %" in text) is not within
    assert "abc" in text


def test_setting_that_luck_made_the_best_of_one_seed_is_not_the_best_picked_on_the_other_seeds(tmp_path):
    def arm(seed, greedy):
        finished(tmp_path / f"{seed}-{greedy}", greedy)
        return Arm.read(tmp_path / f"{seed}-{greedy}")

    fixed = {(0.7, 0.0): [arm(0, 20), arm(1, 9)], (0.5, 0.0): [arm(0, 10), arm(1, 14)]}
    found = study_auto.picked_on_other_seeds(fixed)
    assert found.mean(axis=1).tolist() == [0.5, 0.45], "seed 0 has what was best on seed 1, and the other way round"
    assert study_auto.picked_on_other_seeds({(0.7, 0.0): [arm(2, 20)]}) is None
