from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranks import results_of
from torch import Tensor

from configs.learner import LearnerConfig
from policies import zero
from tests.pico import make_checkpoint

TIMEOUT_S = 400
STAGES = [(1, 0), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]
SPLITS = [(r, s, b) for r, s in STAGES for b in ((64, 4096) if s in (0, 3) else (64,))]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("pico"))


def make_wide_checkpoint(directory: Path, *, tied: bool) -> None:
    """A model whose embedding and lm_head ZeRO-3 partitions: below 100,000 elements DeepSpeed keeps tensors whole."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.08,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)


@pytest.fixture(scope="module")
def results(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict[Any, Any]]:
    """What each rank of a one-rank and of a two-rank learner group found, by (ranks, rank)."""
    out = tmp_path_factory.mktemp("ranks")
    for name in ("tied", "untied"):
        make_wide_checkpoint(out / name, tied=name == "tied")
    return results_of("learner_rank.py", checkpoint, out, TIMEOUT_S)


def relative(found: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> float:
    """Norm of the difference over the norm of what is wanted.

    A bias is measured together with the weight of its projection: adding one vector to all keys changes a softmax only
    through the rotary embedding, so the key bias' gradient is a small difference of large terms, and its own norm says
    little about their rounding.
    """
    scale = wanted[name].double().norm()
    if name.endswith("bias"):
        scale = scale.hypot(wanted[name.removesuffix("bias") + "weight"].double().norm())
    return float((found[name].double() - wanted[name].double()).norm() / scale)


def assert_equal_but_for_rounding(found: dict[str, Tensor], wanted: dict[str, Tensor], each: float) -> None:
    """All tensors together agree within 1e-6, each by itself within `each`."""
    assert found.keys() == wanted.keys()
    difference = torch.stack([(found[name].double() - wanted[name].double()).norm() for name in wanted]).norm()
    assert difference < 1e-6 * torch.stack([tensor.double().norm() for tensor in wanted.values()]).norm()
    for name in wanted:
        assert relative(found, wanted, name) < each, name


def bare_gradients(checkpoint: Path, temperature: float, clip_high: float) -> dict[str, Tensor]:
    """GRPO's gradient by a second implementation: one unpadded sequence at a time, all logits, float64."""
    from learner_rank import minibatch
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    samples = minibatch(14, seed=1)
    total = torch.zeros((), dtype=torch.float64)
    for sample in samples:
        ids = torch.tensor([sample.token_ids])
        table = torch.log_softmax(model(input_ids=ids).logits[0, :-1] / temperature, -1)
        for t in range(1, len(sample.token_ids)):
            if sample.loss_mask[t]:
                ratio = (table[t - 1, ids[0, t]] - sample.rollout_logprobs[t]).exp()
                total -= min(ratio * sample.advantage, ratio.clamp(0.8, 1 + clip_high) * sample.advantage)
    (total / sum(sum(s.loss_mask) for s in samples)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_gradient_is_that_of_a_second_implementation_in_float64(results: Any, checkpoint: Path) -> None:
    wanted = bare_gradients(checkpoint, temperature=0.8, clip_high=0.3)
    for ranks, stage in ((1, 0), (2, 3)):
        found = results[ranks, 0]["step", stage, 64]["gradients"]
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert relative(found, wanted, name) < 2e-6, (ranks, stage, name)


@pytest.mark.parametrize(("ranks", "stage", "budget"), SPLITS)
def test_gradients_and_weights_do_not_depend_on_the_split(results: Any, ranks: int, stage: int, budget: int) -> None:
    """The gradient of a single projection gets 3e-6.

    Float32 is no better on every CPU: one micro-batch differs from float64 by up to 1.6e-6 there (seen on an AMD EPYC),
    where a wrong split would show in the first digits. The weights' bound is relative to the weights, which the step
    moves by about 1e-3 of their norm: it is the milder of the two.
    """
    wanted = results[1, 0]["step", 0, 4096]  # one rank, one micro-batch
    for rank in range(ranks):
        found = results[ranks, rank]["step", stage, budget]
        assert_equal_but_for_rounding(found["gradients"], wanted["gradients"], each=3e-6)
        assert_equal_but_for_rounding(found["weights"], wanted["weights"], each=1e-6)


def test_the_step_of_the_split_test_moves_every_tensor(results: Any) -> None:
    start, after = results[1, 0]["start", 0], results[1, 0]["step", 0, 4096]["weights"]
    assert all(relative(after, start, name) > 1e-5 for name in start)


@pytest.mark.parametrize(("ranks", "stage", "budget"), SPLITS)
def test_metrics_do_not_depend_on_the_split(results: Any, ranks: int, stage: int, budget: int) -> None:
    wanted = results[1, 0]["step", 0, 4096]["metrics"]
    for rank in range(ranks):
        found = results[ranks, rank]["step", stage, budget]["metrics"]
        assert found.keys() == wanted.keys()
        for name in wanted.keys() - {"padded_share"}:
            assert found[name] == pytest.approx(wanted[name], rel=1e-5, abs=1e-7), name


def test_gradient_norm_is_measured_before_clipping(results: Any) -> None:
    step = results[1, 0]["step", 0, 4096]
    norm = torch.stack([g.norm() for g in step["gradients"].values()]).norm()
    assert step["metrics"]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert norm > 0.5  # the config's grad_clip: clipping happened


@pytest.mark.parametrize(("ranks", "stage"), STAGES)
def test_rank_without_samples_adds_nothing(results: Any, ranks: int, stage: int) -> None:
    wanted = results[1, 0]["one sample", 0]
    for rank in range(ranks):
        found = results[ranks, rank]["one sample", stage]
        for part in ("gradients", "weights"):
            assert all(relative(found[part], wanted[part], n) < 1e-6 for n in wanted[part])
        assert found["metrics"]["loss"] == pytest.approx(wanted["metrics"]["loss"], rel=1e-6)


@pytest.mark.parametrize(("ranks", "stage"), STAGES)
def test_weights_are_named_and_equal_as_in_the_checkpoint(
    results: Any, checkpoint: Path, ranks: int, stage: int
) -> None:
    from safetensors.torch import load_file

    wanted = load_file(checkpoint / "model.safetensors")
    for rank in range(ranks):
        for origin in ("start", "reloaded"):
            found = results[ranks, rank][origin, stage]
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize(("ranks", "stage"), STAGES)
def test_resume_is_exact(results: Any, ranks: int, stage: int) -> None:
    for rank in range(ranks):
        metrics, weights, randoms = results[ranks, rank]["uninterrupted", stage]
        resumed_metrics, resumed_weights, resumed_randoms = results[ranks, rank]["resumed", stage]
        assert resumed_metrics == metrics
        assert torch.equal(resumed_randoms, randoms)
        assert all(torch.equal(resumed_weights[n], weights[n]) for n in weights)


@pytest.mark.parametrize(("ranks", "stage"), STAGES)
def test_reference_is_the_snapshot_and_not_the_present_weights(results: Any, ranks: int, stage: int) -> None:
    from learner_rank import minibatch

    found = results[ranks, ranks - 1]
    all_tokens = found["logprobs", stage][0]  # at the snapshot, before four updates
    for sample, scored, reference in zip(minibatch(14, 1), all_tokens, found["reference", stage], strict=True):
        for t, mask in enumerate(sample.loss_mask):
            assert reference[t] == pytest.approx(scored[t] if mask else 0.0, abs=1e-5)
    assert found["kl", stage]["kl"] > 0.01


def test_logprobs_are_those_of_transformers(results: Any, checkpoint: Path) -> None:
    from learner_rank import minibatch
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for key, stage in (((1, 0), 0), ((2, 1), 3)):
        logprobs, entropies = results[key]["logprobs", stage]
        for sample, found, entropy in zip(minibatch(14, 1), logprobs, entropies, strict=True):
            ids = torch.tensor([sample.token_ids])
            with torch.no_grad():
                table = torch.log_softmax(model(input_ids=ids).logits[0, :-1] / 0.7, -1)
            wanted = table.gather(-1, ids[0, 1:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(found[1:]), wanted, atol=2e-5, rtol=0)
            torch.testing.assert_close(torch.tensor(entropy[1:]), -(table.exp() * table).sum(-1), atol=2e-5, rtol=0)
            assert found[0] == entropy[0] == 0.0


def test_minibatch_without_loss_tokens_takes_no_step(results: Any) -> None:
    assert results[2, 1]["empty"] == {"skipped": 1.0, "tokens": 0.0}


def test_learning_rate_warms_up_linearly(results: Any) -> None:
    assert results[1, 0]["one sample", 0]["metrics"]["lr"] == pytest.approx(1e-3 / 3)  # lr 1e-3, warmup_steps 3
    assert results[1, 0]["lr"] == pytest.approx([2e-3 / 3, 1e-3])
    assert results[1, 0]["kl", 0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_zero3_ranks_with_unequal_positions_run_the_lm_head_equally_often(results: Any, name: str, rank: int) -> None:
    from learner_rank import ROWS, minibatch

    from policies.batching import split

    samples = minibatch(14, seed=1)
    counts = [sum(s.loss_mask) for s in samples]
    plan = split([len(s.token_ids) for s in samples], 64, 2)
    needed = [[-(-sum(counts[i] for i in chosen) // ROWS) for chosen in part] for part in plan]
    assert needed[0] != needed[1], "so the ranks' own positions ask for different numbers of pieces"

    found, wanted = results[2, rank]["pieces", name, ROWS], results[2, rank]["pieces", name, None]
    for what in ("step", "one sample"):
        for part in ("gradients", "weights"):
            assert all(relative(found[what][part], wanted[what][part], n) < 1e-6 for n in wanted[what][part]), what
        assert found[what]["metrics"] == pytest.approx(wanted[what]["metrics"], rel=1e-5, abs=1e-7)
    for what in ("logprobs", "reference"):
        for row, wanted_row in zip(found[what], wanted[what], strict=True):
            assert row == pytest.approx(wanted_row, abs=1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_gradients_of_micro_batches_are_added_up_in_float32(results: Any, stage: int) -> None:
    """64 micro-batches of one sample, each with 1/64 of the weight: in float32 their sum is the sample's gradient."""
    for rank in range(2):
        found = results[2, rank]["bfloat16", stage]
        assert all(torch.equal(found["many"][name], found["few"][name]) for name in found["few"])
        assert all(tensor.dtype == torch.float32 for tensor in found["many"].values())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_learner_steps_and_resumes_exactly(results: Any, stage: int) -> None:
    for rank in range(2):
        found = results[2, rank]["bfloat16", stage]
        after, resumed = found["uninterrupted"], found["resumed"]
        assert resumed["metrics"] == after["metrics"]
        assert all(torch.equal(resumed["weights"][n], after["weights"][n]) for n in after["weights"])
        assert all(tensor.dtype == torch.bfloat16 for tensor in after["weights"].values())
        assert any(not torch.equal(after["weights"][n], found["start"][n]) for n in found["start"])


@pytest.mark.parametrize(("stage", "wanted"), [(0, None), (1, "fp32"), (2, "fp32"), (3, "fp32")])
def test_deepspeed_adds_up_bfloat16_gradients_in_float32_where_it_can(stage: int, wanted: str | None) -> None:
    found = zero.settings(LearnerConfig(zero_stage=stage, dtype="bfloat16"))
    assert found.get("data_types", {}).get("grad_accum_dtype") == wanted
    assert "data_types" not in zero.settings(LearnerConfig(zero_stage=stage))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("inherited", [None, "", "xpu"])
def test_deepspeed_is_told_the_configured_device(
    monkeypatch: pytest.MonkeyPatch, device: str, inherited: str | None
) -> None:
    class Joined(Exception):
        pass

    def init_distributed(backend: str, **_: Any) -> None:
        raise Joined(os.environ["DS_ACCELERATOR"], backend)

    fake = SimpleNamespace(
        ops=SimpleNamespace(__compatible_ops__={}), init_distributed=init_distributed
    )  # the real one takes its device for the rest of the process
    monkeypatch.setitem(sys.modules, "deepspeed", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    environment = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DS_ACCELERATOR", inherited or "")
    if inherited is None:
        monkeypatch.delenv("DS_ACCELERATOR")
    with pytest.raises(Joined) as joined:
        zero.join_process_group(LearnerConfig(device=device))
    assert joined.value.args == (device, "gloo" if device == "cpu" else "nccl")
