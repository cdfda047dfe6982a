from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rejuvenation import blocks
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.diagnostics.changes import changed_shares
from rejuvenation.diagnostics.spectrum import effective_rank, rank_of, too_large
from rejuvenation.drift import measured
from tests.rejuvenation.tiny import moved, qwen2, save


def aligned(tmp_path: Path, base: object, sft: object) -> Alignment:
    return Alignment(CheckpointReader(save(base, tmp_path / "base")), CheckpointReader(save(sft, tmp_path / "sft")))


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.eye(7, dtype=torch.float64)) == pytest.approx(7.0)
    row = torch.arange(1.0, 6.0, dtype=torch.float64)
    assert effective_rank(torch.outer(row, row)) == pytest.approx(1.0, abs=1e-5)
    assert effective_rank(torch.zeros(3, 3, dtype=torch.float64)) == 0.0
    # singular values 3 and 1: p = 3/4, 1/4
    expected = (4 / 3) ** 0.75 * 4**0.25
    assert effective_rank(torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64))) == pytest.approx(expected)


def test_rank_shares_are_those_of_a_singular_value_decomposition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = qwen2(0)
    alignment = aligned(tmp_path, base, moved(base, 1))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 500)  # a few rows at once
    found = {which: rank_of(alignment, which, 1000) for which in ("base", "sft", "delta")}
    for kind in ("up_proj", "down_proj"):  # tall and wide
        for which in found:
            shares = []
            for layer in range(3):
                name = f"model.layers.{layer}.mlp.{kind}.weight"
                tensors = {"base": alignment.base.tensor(name).double(), "sft": alignment.sft.tensor(name).double()}
                tensors["delta"] = tensors["sft"] - tensors["base"]
                singular = torch.linalg.svdvals(tensors[which])
                share = singular / singular.sum()
                shares.append((-(share * share.log()).sum()).exp().item() / 32)
            assert found[which][kind.removesuffix("_proj")] == pytest.approx(sum(shares) / 3, rel=1e-6)
    assert "norms" not in found["sft"], "vectors have no rank"


def test_matrices_above_the_limit_are_left_out_and_said(tmp_path: Path) -> None:
    alignment = aligned(tmp_path, qwen2(0), qwen2(1))
    kept = rank_of(alignment, "sft", 16)  # k and v are 16 x 32, all others 32 at least
    assert set(kept) == {"k", "v", "all"}
    (note,) = too_large(alignment.sft.entries.values(), 16)
    assert "and 15 more: sides above 16" in note  # q o gate up down of three layers, and the embedding
    assert too_large(alignment.sft.entries.values(), 32) == []


def test_changes_smaller_than_half_a_bfloat16_step_vanish(tmp_path: Path) -> None:
    base = qwen2(0)
    sft = moved(base, 1, size=0.0)
    for model in (base, sft):
        model.model.layers[1].mlp.up_proj.weight.fill_(1.0)  # the next bfloat16 numbers are 1 - 2^-8 and 1 + 2^-7
    weight = sft.model.layers[1].mlp.up_proj.weight  # [48, 32]
    weight[:12] += 2**-9
    weight[12:24] += 2**-7
    found = changed_shares(aligned(tmp_path, base, sft))
    total = sum(parameter.numel() for parameter in base.parameters())
    assert found["up"] == pytest.approx(12 * 32 / (3 * 48 * 32))
    assert found["all"] == pytest.approx(12 * 32 / total)
    assert found["q"] == found["embeddings"] == 0.0


def test_drift_by_tensor_is_each_tensors_own(tmp_path: Path) -> None:
    base = qwen2(0)
    sft = moved(base, 1, size=0.0)
    sft.model.layers[2].mlp.gate_proj.weight.mul_(1.25)
    alignment = aligned(tmp_path, base, sft)
    by_tensor = measured(alignment).by_tensor()
    assert set(by_tensor) == set(alignment.sft.entries)
    assert by_tensor.pop("model.layers.2.mlp.gate_proj.weight") == pytest.approx(0.25)
    assert set(by_tensor.values()) == {0.0}


def test_tensor_whose_base_is_zero_has_no_drift(tmp_path: Path) -> None:
    directories = [save(qwen2(0), tmp_path / name) for name in ("base", "sft")]
    for directory, value in zip(directories, (0.0, 1.0), strict=True):
        from safetensors.torch import load_file

        tensors = load_file(directory / "model.safetensors")
        tensors["model.norm.weight"].fill_(value)
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    by_tensor = measured(Alignment(*map(CheckpointReader, directories))).by_tensor()
    assert "model.norm.weight" not in by_tensor
