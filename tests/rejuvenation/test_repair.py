from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.rejuvenation import RejuvenationConfig
from rejuvenation import blocks, transform, writer
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.fused import Fused, lerp
from rejuvenation.neurons import KINDS, NeuronTable
from rejuvenation.repair import Repair
from rejuvenation.reset import reset
from tests.rejuvenation.tiny import KINDS_OF_MODEL, moved, qwen2, save, tiny

DTYPES = [torch.bfloat16, torch.float32]
WRITER_BIASES = ("o_proj.bias", "down_proj.bias")


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    raw = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)


def pair_of(
    path: Path, architecture: str = "qwen2", *, tied: bool, dtype: torch.dtype, shards: bool = False
) -> tuple[Path, Path]:
    base = tiny(architecture, 0, tied=tied)
    sft = moved(base, 1)
    base.model.layers[0].mlp.up_proj.weight[0, :3] = 0.0
    base.model.layers[0].mlp.up_proj.weight[0, 1] = -0.0
    sft.model.layers[0].mlp.up_proj.weight[0, :3] = -0.0
    return save(base, path / "base", dtype=dtype, shards=shards), save(sft, path / "sft", dtype=dtype, shards=shards)


def repaired(base: Path, sft: Path, selected: torch.Tensor | None = None, **settings: float | str) -> Repair:
    alignment = Alignment(CheckpointReader(base), CheckpointReader(sft))
    table = NeuronTable.of(alignment.sft)
    if selected is None:
        selected = torch.ones(table.total, dtype=torch.bool)
    config = RejuvenationConfig(**settings)
    return Repair(Fused(alignment, config), config, table, selected)


def tensors(repair: Repair) -> dict[str, torch.Tensor]:
    return {name: repair.tensor(name) for name in repair.fused.alignment.sft.entries}


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shards", [True, False])
def test_fusion_at_the_endpoints_copies_whole_files(
    tmp_path: Path, architecture: str, tied: bool, dtype: torch.dtype, shards: bool
) -> None:
    """Check 1: alpha 1 gives the SFT's files, alpha 0 Base's tensors, equal checkpoints themselves; -0.0 included."""
    base, sft = pair_of(tmp_path, architecture, tied=tied, dtype=dtype, shards=shards)
    for name, alpha, other, expected in [("one", 1.0, base, sft), ("zero", 0.0, base, base), ("same", 0.37, sft, sft)]:
        out = tmp_path / name
        transform(other, sft, out, RejuvenationConfig(alpha=alpha, rho=0.0), [], seed=0)
        files = sorted(path.name for path in sft.glob("model*"))
        assert sorted(path.name for path in out.glob("model*")) == files
        for file in files:
            assert (out / file).read_bytes() == (expected / file).read_bytes(), (name, file)


def test_dtype_is_that_of_the_sft_checkpoint_tensor_by_tensor(tmp_path: Path) -> None:
    base, sft = qwen2(0), moved(qwen2(0), 1)
    base_dir = save(base, tmp_path / "base", dtype=torch.float32)
    mixed = sft.to(torch.bfloat16)
    mixed.model.norm.to(torch.float32)
    mixed.save_pretrained(tmp_path / "sft")
    transform(base_dir, tmp_path / "sft", tmp_path / "out", RejuvenationConfig(rho=0.0), [], seed=0)
    out, source = CheckpointReader(tmp_path / "out"), CheckpointReader(tmp_path / "sft")
    assert {entry.dtype for entry in source.entries.values()} == {torch.bfloat16, torch.float32}
    assert out.entries == source.entries
    name = "model.layers.1.mlp.up_proj.weight"
    expected = (0.5 * source.tensor(name).float() + 0.5 * base.state_dict()[name]).bfloat16()
    assert torch.equal(out.tensor(name), expected)


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shards", [True, False])
def test_every_tensor_is_one_rounding_of_the_float32_lerp(
    tmp_path: Path, architecture: str, tied: bool, dtype: torch.dtype, shards: bool
) -> None:
    """Check 3 on whole checkpoints, in numpy; and mergekit's formula, which divides by the sum of the weights."""
    base, sft = pair_of(tmp_path, architecture, tied=tied, dtype=dtype, shards=shards)
    transform(base, sft, tmp_path / "out", RejuvenationConfig(alpha=0.4, steps=["fusion.linear"]), [], seed=0)
    readers = [CheckpointReader(path) for path in (base, sft, tmp_path / "out")]
    for name in readers[0].entries:
        stored, other, out = (reader.tensor(name) for reader in readers)
        terms = np.float32(0.4) * other.float().numpy(), np.float32(0.6) * stored.float().numpy()
        same = stored.float().numpy() == other.float().numpy()
        expected = torch.from_numpy(np.where(same, other.float().numpy(), terms[0] + terms[1])).to(dtype)
        assert torch.equal(out, expected), name
        merged = torch.from_numpy((terms[0] + terms[1]) / (np.float32(0.4) + np.float32(0.6))).to(dtype)
        largest = np.maximum(np.abs(terms[0]), np.abs(terms[1])) + np.finfo(np.float32).tiny
        unit = torch.from_numpy(2.0 ** np.floor(np.log2(largest.astype(np.float64)))) * torch.finfo(dtype).eps
        room = 2 * unit if dtype == torch.float32 else unit  # both round three times in float32
        assert ((out.double() - merged.double()).abs() <= room).all(), name


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_full_reset_gives_base_in_the_seven_modules_alone(
    tmp_path: Path, architecture: str, tied: bool, dtype: torch.dtype
) -> None:
    """Check 2, biases included, those of o and down apart: no column has a bias of its own."""
    base_dir, sft_dir = pair_of(tmp_path, architecture, tied=tied, dtype=dtype)
    base, sft = CheckpointReader(base_dir), CheckpointReader(sft_dir)
    reset_tensors = 0
    for name, tensor in tensors(repaired(base_dir, sft_dir, alpha=0.4)).items():
        inside = any(f".{path}." in name for path in KINDS.values()) and not name.endswith(WRITER_BIASES)
        reset_tensors += inside
        expected = base.tensor(name) if inside else lerp(base.tensor(name), sft.tensor(name), 0.4)
        assert same_bytes(tensor, expected), name
        assert not same_bytes(tensor, lerp(base.tensor(name), sft.tensor(name), 0.4)) or not inside, name
    assert reset_tensors == 3 * (7 + {"qwen2": 3, "llama": 5}.get(architecture, 0))


def test_one_neuron_is_a_row_with_its_bias_or_a_column(tmp_path: Path) -> None:
    base_dir, sft_dir = pair_of(tmp_path, tied=True, dtype=torch.float32)
    alignment = Alignment(CheckpointReader(base_dir), CheckpointReader(sft_dir))
    table = NeuronTable.of(alignment.sft)
    fused = Fused(alignment, RejuvenationConfig())
    fused = {name: fused.tensor(name) for name in alignment.sft.entries}
    for kind in KINDS:
        module = next(module for module in table.modules if (module.layer, module.kind) == (1, kind))
        selected = torch.zeros(table.total, dtype=torch.bool)
        selected[module.offset + 5] = True
        for name, tensor in tensors(repaired(base_dir, sft_dir, selected)).items():
            expected = fused[name].clone()
            if name == f"{module.path}.weight":
                row = (slice(None), 5) if kind in ("o", "down") else (5, slice(None))
                expected[row] = alignment.base.tensor(name)[row]
            elif name == f"{module.path}.bias":
                expected[5] = alignment.base.tensor(name)[5]
            assert same_bytes(tensor, expected), (kind, name)
            assert same_bytes(tensor, fused[name]) == (not name.startswith(module.path)), (kind, name)


def test_blocks_of_rows_give_the_bytes_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, sft = pair_of(tmp_path, tied=False, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    table = NeuronTable.of(CheckpointReader(sft))
    repair = repaired(base, sft, torch.rand(table.total, generator=generator) < 0.3, alpha=0.3)
    whole, cut = tmp_path / "whole", tmp_path / "blocks"
    for path in (whole, cut):
        path.mkdir()

    def rows(block: blocks.Block, out: torch.Tensor) -> torch.Tensor:
        return repair.rows(*block, out=out)

    first = writer.write_checkpoint(whole, repair.fused.alignment.sft, rows)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 700)  # five rows of 32 float32
    assert writer.write_checkpoint(cut, repair.fused.alignment.sft, rows) == first
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    loaded = CheckpointReader(cut)
    assert all(same_bytes(loaded.tensor(name), tensor) for name, tensor in tensors(repair).items())


def test_targets_and_strength() -> None:
    fused, base = torch.tensor([[2.0, 4.0], [6.0, 8.0]]), torch.zeros(2, 2) + 10.0
    rows = torch.tensor([False, True])

    def run(target: str, strength: float, axis: int = 0) -> list[list[float]]:
        return reset(fused, base, rows, axis=axis, target=target, strength=strength).tolist()

    assert run("base", 1.0) == [[2.0, 4.0], [10.0, 10.0]]
    assert run("base", 0.25) == [[2.0, 4.0], [7.0, 8.5]]
    assert run("base", 1.0, axis=1) == [[2.0, 10.0], [6.0, 10.0]]
    assert run("zero", 1.0) == [[2.0, 4.0], [0.0, 0.0]]
    assert run("zero", 0.5) == [[2.0, 4.0], [3.0, 4.0]]
    assert run("fused", 1.0) == fused.tolist()
    assert run("base", 0.0) == fused.tolist()
