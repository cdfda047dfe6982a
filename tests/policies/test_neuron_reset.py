from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from neuron_reset_rank import CUT_ROWS, SAMPLES, SETTINGS, chosen_masks, target_tensors
from ranks import RANKS, results_of

from policies.neuron_reset import neuron_resets

TIMEOUT_S = 400
EVERY = [(*group, *setting) for group in RANKS for setting in SETTINGS]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Odd sizes, so that partitions end inside rows, are padded, and ZeRO-3 keeps some tensors whole and others not."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    directory = tmp_path_factory.mktemp("odd")
    config = Qwen2Config(
        vocab_size=41,
        hidden_size=161,
        intermediate_size=641,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_((1.0 if "norm" in name else 0.0) + 0.08 * torch.randn(parameter.shape))
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def results(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict[Any, Any]]:
    return results_of("neuron_reset_rank.py", checkpoint, tmp_path_factory.mktemp("ranks"), TIMEOUT_S)


def test_the_odd_checkpoint_has_what_it_is_for(checkpoint: Path) -> None:
    """Halves end inside rows that are reset, one is padded; ZeRO-3 keeps tensors under 100,000 entries whole."""
    from transformers import AutoModelForCausalLM

    named = dict(AutoModelForCausalLM.from_pretrained(checkpoint).named_parameters())
    gate = named["model.layers.0.mlp.gate_proj.weight"]
    assert gate.numel() % 2 == 1
    assert gate.numel() > 100_000 > named["model.layers.0.self_attn.q_proj.weight"].numel()
    masks = chosen_masks(str(checkpoint))
    rows = torch.cat([torch.full((p.numel(),), -1) for p in named.values()])  # of all parameters in a row, up's rows
    up = named["model.layers.0.mlp.up_proj.weight"]
    start = sum(p.numel() for p in list(named.values())[: list(named).index("model.layers.0.mlp.up_proj.weight")])
    rows[start : start + up.numel()] = torch.arange(641).repeat_interleave(161)
    half = -(-len(rows) // 2)
    assert set(rows[half - 8 : half + 8].tolist()) == {CUT_ROWS["up"]}  # wherever alignment puts the cut
    assert -(-gate.numel() // 2) // 161 == CUT_ROWS["gate"]
    assert (-(-gate.numel() // 2)) % 161 > 0
    for kind, row in CUT_ROWS.items():
        assert masks[f"model.layers.0.mlp.{kind}_proj.weight"][1][row]
    kinds = {name.split(".", 4)[4] for name in masks}
    assert kinds == {f"{k}_proj.{w}" for k in "qkv" for w in ("weight", "bias")} | {
        f"{k}_proj.weight" for k in ("o", "gate", "up", "down")
    }
    assert {axis for axis, _ in masks.values()} == {0, 1}


@pytest.mark.parametrize(("ranks", "rank", "stage", "dtype"), EVERY)
@pytest.mark.parametrize("kind", ["weights", "masters", "exp_avg", "exp_avg_sq"])
def test_chosen_entries_are_overwritten_and_all_others_keep_their_bytes(
    results: Any, ranks: int, rank: int, stage: int, dtype: str, kind: str
) -> None:
    found = results[ranks, rank][stage, dtype]
    assert found[kind] == []
    assert found["untouched"] == []
    assert found["moments before"] > 0.0, "so there was something to forget"


@pytest.mark.parametrize(("ranks", "rank", "stage", "dtype"), EVERY)
def test_next_step_is_that_of_plain_adamw_after_the_same_surgery(
    results: Any, ranks: int, rank: int, stage: int, dtype: str
) -> None:
    found = results[ranks, rank][stage, dtype]
    before, after = found["steps"]
    assert before == after
    assert set(before) == ({3.0} if (stage, dtype) == (0, "bfloat16") else {2.0})  # there DeepSpeed takes an empty one
    assert found["step"] < 2e-7
    assert found["cast"] == [], "the model's weights are the master weights in its dtype"


@pytest.mark.parametrize(("ranks", "rank", "stage", "dtype"), EVERY)
def test_publication_carries_the_reset(results: Any, ranks: int, rank: int, stage: int, dtype: str) -> None:
    assert results[ranks, rank][stage, dtype]["published"] == []


@pytest.mark.parametrize(("ranks", "rank", "stage", "dtype"), EVERY)
def test_resumed_learner_is_reset_part_of_the_way_to_zero(
    results: Any, ranks: int, rank: int, stage: int, dtype: str
) -> None:
    found = results[ranks, rank][stage, dtype]
    assert found["resumed weights"] == []
    assert found["resumed step"] < 2e-7


@pytest.mark.parametrize(("ranks", "rank", "stage", "dtype"), EVERY)
def test_learner_that_has_taken_no_step_is_reset(results: Any, ranks: int, rank: int, stage: int, dtype: str) -> None:
    """Negative zeros among the entries that stay keep their sign: nothing is added up over ranks."""
    assert results[ranks, rank][stage, dtype]["fresh"] == []


@pytest.mark.parametrize(("ranks", "rank", "stage", "dtype"), EVERY)
def test_refused_reset_changes_nothing(results: Any, ranks: int, rank: int, stage: int, dtype: str) -> None:
    found = results[ranks, rank][stage, dtype]
    assert found["refused"] == "neuron reset: model.norm.weight: mask must be bool [161], got bool [3]"
    assert found["after refusal"] == []


@pytest.fixture(scope="module")
def trajectory(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Two steps, the surgery and a third step by a second implementation: transformers and torch's AdamW alone."""
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, eps=1.0, weight_decay=0.01)
    named = dict(model.named_parameters())
    targets = target_tensors(str(checkpoint))
    for index in range(3):
        if index == 2:
            for name, (axis, mask) in chosen_masks(str(checkpoint)).items():
                moments = optimizer.state[named[name]]
                with torch.no_grad():
                    for tensor, source in (
                        (named[name], targets[name]),
                        (moments["exp_avg"], torch.zeros_like(targets[name])),
                        (moments["exp_avg_sq"], torch.zeros_like(targets[name])),
                    ):
                        tensor.index_copy_(axis, mask.nonzero()[:, 0], source.index_select(axis, mask.nonzero()[:, 0]))
        optimizer.zero_grad()
        total = torch.zeros(())
        for sample in SAMPLES:
            ids = torch.tensor([sample.token_ids])
            table = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
            scored = torch.tensor(sample.loss_mask[1:], dtype=torch.bool)
            total = total - table.gather(1, ids[0, 1:, None])[:, 0][scored].sum()
        (total / sum(sum(s.loss_mask) for s in SAMPLES)).backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in named.items()}


@pytest.mark.parametrize(("ranks", "rank", "stage"), [(*g, s) for g in RANKS for s in (0, 1, 2, 3)])
def test_training_through_a_reset_is_that_of_a_second_implementation(
    results: Any, trajectory: dict[str, torch.Tensor], ranks: int, rank: int, stage: int
) -> None:
    found = results[ranks, rank][stage, "float32"]["stepped"]
    assert found.keys() == trajectory.keys()
    for name, wanted in trajectory.items():
        assert float((found[name] - wanted).abs().max() / wanted.abs().max()) < 5e-6, name


MASK = torch.tensor([True, False, True])
SHAPES = {"w": (3, 2), "v": (2, 3), "b": (3,)}


def test_rows_columns_and_bias_entries_of_a_worked_example() -> None:
    w, v = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    masks = {"w": (0, MASK), "v": (1, MASK), "b": (0, ~MASK)}
    targets = [("other", torch.ones(9)), ("v", v), ("w", w.double()), ("b", torch.tensor([7.0, 8.0, 9.0]))]
    found = neuron_resets(masks, targets, 0.5, SHAPES)
    assert found["w"].chosen().tolist() == [True, True, False, False, True, True]
    assert found["w"].goal().tolist() == [1.0, 2.0, 0.0, 0.0, 5.0, 6.0]
    assert found["v"].chosen().tolist() == [True, False, True, True, False, True]
    assert found["v"].goal().tolist() == [1.0, 0.0, 3.0, 4.0, 0.0, 6.0]
    assert found["b"].goal().tolist() == [0.0, 8.0, 0.0]
    assert found["b"].moved(torch.tensor([4.0]), torch.tensor([8.0])).tolist() == [6.0]


def test_full_strength_copies_the_target_over_weights_that_are_not_finite() -> None:
    (found,) = neuron_resets({"b": (0, MASK)}, None, 1.0, SHAPES).values()
    assert found.moved(torch.tensor([float("nan"), float("inf")]), torch.zeros(2)).tolist() == [0.0, 0.0]


def test_tensor_without_a_chosen_neuron_is_left_out_and_needs_no_target() -> None:
    assert neuron_resets({"w": (0, torch.zeros(3, dtype=torch.bool))}, [], 1.0, SHAPES) == {}


@pytest.mark.parametrize(
    ("masks", "targets", "strength", "message"),
    [
        ({"x": (0, MASK)}, None, 1.0, r"x must be a parameter of the model, got no such name"),
        ({"w": (2, MASK)}, None, 1.0, r"w: axis must be one of the tensor's 2, got 2"),
        ({"w": (1, MASK)}, None, 1.0, r"w: mask must be bool \[2\], got bool \[3\]"),
        ({"w": (0, MASK.long())}, None, 1.0, r"w: mask must be bool \[3\], got int64 \[3\]"),
        (
            {"w": (0, MASK)},
            [("w", torch.ones(2, 3))],
            1.0,
            r"w: target must be floating-point \[3, 2\], got float32 \[2, 3\]",
        ),
        ({"w": (0, MASK)}, [("w", torch.ones(3, 2).long())], 1.0, r"w: target must be floating-point .* got int64"),
        ({"w": (0, MASK), "b": (0, MASK)}, [("w", torch.ones(3, 2))], 1.0, r"b: target must be given .* got none"),
        ({"w": (0, MASK)}, None, 1.5, r"strength must lie in \[0, 1\], got 1\.5"),
        ({"w": (0, MASK)}, None, float("nan"), r"strength must lie in \[0, 1\], got nan"),
    ],
)
def test_what_does_not_fit_is_named(masks: Any, targets: Any, strength: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neuron_resets(masks, targets, strength, SHAPES)
