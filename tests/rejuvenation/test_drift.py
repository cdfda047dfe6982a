from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.rejuvenation import RejuvenationConfig
from rejuvenation import transform
from rejuvenation.alignment import Alignment
from rejuvenation.blocks import blocks_of
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.drift import DriftMeter, drift
from tests.rejuvenation.tiny import moved, qwen2, save


def test_drift_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    base = qwen2(0, intermediate_size=4001)  # 128,032 elements in each of gate, up, down
    alignment = Alignment(
        CheckpointReader(save(base, tmp_path / "base")), CheckpointReader(save(moved(base, 1), tmp_path / "sft"))
    )
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(drift(alignment))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]
    name = "model.layers.1.mlp.up_proj.weight"
    rows = [
        torch.cat([reader.tensor(name.replace("1", str(layer))) for layer in range(3)]).double()
        for reader in (alignment.base, alignment.sft)
    ]
    expected = (rows[1] - rows[0]).norm() / rows[0].norm()
    assert found[0]["up"] == pytest.approx(expected.item(), rel=1e-5) == pytest.approx(0.1, rel=0.05)


def test_dtypes_without_arithmetic_are_left_out_and_said(tmp_path: Path) -> None:
    base, sft = save(qwen2(0), tmp_path / "base"), save(moved(qwen2(0), 1), tmp_path / "sft")
    for directory in (base, sft):
        tensors = load_file(directory / "model.safetensors")
        for layer in range(2):
            tensors[f"model.layers.{layer}.scale"] = torch.ones(4).to(torch.float8_e4m3fn)
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    report = transform(base, sft, tmp_path / "out", RejuvenationConfig(steps=["fusion.linear"]), [], seed=0)
    assert report.notes == ["model.layers.0.scale and 1 more: dtype float8_e4m3fn, left out of the drift"]
    assert "other" not in report.drift
    assert report.drift["all"] > 0


def test_drift_by_module_tells_layers_and_kinds_apart(tmp_path: Path) -> None:
    base = qwen2(0)
    sft = moved(base, 1, size=0.0)
    sft.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    sft.model.layers[2].self_attn.q_proj.weight.mul_(0.5)
    sft.model.layers[2].self_attn.q_proj.bias.mul_(3.0)
    for model in (base, sft):
        model.model.layers[0].mlp.down_proj.weight.zero_()
    alignment = Alignment(
        CheckpointReader(save(base, tmp_path / "base")), CheckpointReader(save(sft, tmp_path / "sft"))
    )
    meter = DriftMeter(alignment)
    for block in blocks_of(alignment.sft.entries.values()):
        meter.measure(block)
    found = meter.by_module()
    assert list(found) == ["q", "k", "v", "o", "gate", "up", "down"]
    assert found["up"] == pytest.approx([0.0, 0.5, 0.0])
    assert found["down"] == [None, 0.0, 0.0], "base has only zeros in the first layer"
    q_proj = base.model.layers[2].self_attn.q_proj
    weight, bias = q_proj.weight.square().sum(), q_proj.bias.square().sum()
    assert found["q"] == pytest.approx([0.0, 0.0, ((0.25 * weight + 4.0 * bias) / (weight + bias)).sqrt().item()])
    assert found["k"] == found["v"] == found["o"] == found["gate"] == [0.0] * 3
