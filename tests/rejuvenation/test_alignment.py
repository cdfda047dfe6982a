"""Check 13: what may differ between the two checkpoints, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation import TokenPair, transform
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from tests.rejuvenation.tiny import ARCHITECTURES, KINDS_OF_MODEL, moved, qwen2, save, tiny, token_pairs

FUSION = RejuvenationConfig(steps=["fusion.linear"])
EMBEDDING = "model.embed_tokens.weight"


def align(base: Path, sft: Path) -> Alignment:
    return Alignment(CheckpointReader(base), CheckpointReader(sft))


def edit(directory: Path, **changes: torch.Tensor | None) -> Path:
    """Add, replace or (None) remove tensors of a stored checkpoint; `__` stands for a dot."""
    tensors = load_file(directory / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL)
def test_rows_of_added_tokens_stay_the_sfts(tmp_path: Path, architecture: str, tied: bool) -> None:
    small, large = tiny(architecture, 0, tied=tied), tiny(architecture, 5, tied=tied, vocab_size=67)
    base, sft = save(small, tmp_path / "base"), save(large, tmp_path / "sft")
    pairs = [TokenPair([1, 66], [65, 3, 64]), *token_pairs(2)]  # tokens that Base does not know
    report = transform(base, sft, tmp_path / "out", RejuvenationConfig(alpha=0.3, calibration_pairs=3), pairs, seed=0)
    out = CheckpointReader(tmp_path / "out")
    for name in [EMBEDDING] if tied else [EMBEDDING, "lm_head.weight"]:
        ours, theirs = small.state_dict()[name], large.state_dict()[name]
        assert torch.equal(out.tensor(name)[61:], theirs[61:])
        torch.testing.assert_close(out.tensor(name)[:61], 0.3 * theirs[:61] + 0.7 * ours)
        assert any(name in note and "6 rows" in note for note in report.notes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_surplus_rows_of_base_are_cut(tmp_path: Path, architecture: str) -> None:
    large, small = tiny(architecture, 0, vocab_size=64), tiny(architecture, 5)
    report = transform(
        save(large, tmp_path / "base"), save(small, tmp_path / "sft"), tmp_path / "out", FUSION, token_pairs(1), seed=0
    )
    fused = CheckpointReader(tmp_path / "out").tensor(EMBEDDING)
    expected = 0.5 * large.state_dict()[EMBEDDING][:61] + 0.5 * small.state_dict()[EMBEDDING]
    torch.testing.assert_close(fused, expected)
    assert any("3 surplus rows" in note for note in report.notes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_head_stored_by_the_sft_alone_is_fused_with_the_tied_embedding(tmp_path: Path, architecture: str) -> None:
    tied, untied = tiny(architecture, 0, tied=True), tiny(architecture, 5, tied=False)
    report = transform(
        save(tied, tmp_path / "base"), save(untied, tmp_path / "sft"), tmp_path / "out", FUSION, [], seed=0
    )
    fused = CheckpointReader(tmp_path / "out").tensor("lm_head.weight")
    torch.testing.assert_close(fused, 0.5 * tied.state_dict()[EMBEDDING] + 0.5 * untied.state_dict()["lm_head.weight"])
    assert any("lm_head" in note for note in report.notes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_head_stored_by_the_base_alone_is_dropped_where_it_is_tied(tmp_path: Path, architecture: str) -> None:
    base = save(tiny(architecture, 0), tmp_path / "base")
    edit(base, lm_head__weight=load_file(base / "model.safetensors")[EMBEDDING].clone())
    alignment = align(base, save(tiny(architecture, 5), tmp_path / "sft"))
    assert "lm_head.weight" not in alignment.sft
    assert any("lm_head" in note for note in alignment.notes)


def test_head_of_an_untied_base_is_not_dropped_silently(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"base must hold tensor lm_head\.weight equal to model\.embed_tokens\.weight"
    ):
        align(save(qwen2(0, tied=False), tmp_path / "base"), save(qwen2(5), tmp_path / "sft"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rotary_buffers_may_be_in_either(tmp_path: Path, architecture: str) -> None:
    base, sft = save(tiny(architecture, 0), tmp_path / "base"), save(tiny(architecture, 5), tmp_path / "sft")
    edit(base, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4))
    edit(sft, model__layers__1__self_attn__rotary_emb__inv_freq=torch.full((4,), 3.0))
    report = transform(base, sft, tmp_path / "out", FUSION, [], seed=0)
    buffers = {name: t for name, t in CheckpointReader(tmp_path / "out").items() if "rotary" in name}
    assert [(name, t.tolist()) for name, t in buffers.items()] == [
        ("model.layers.1.self_attn.rotary_emb.inv_freq", [3.0] * 4)
    ]
    assert sum("rotary" in note for note in report.notes) == 2


@pytest.mark.parametrize("where", ["base", "sft"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_missing_tensor_is_named(tmp_path: Path, architecture: str, where: str) -> None:
    for name in ("base", "sft"):
        save(tiny(architecture, 0), tmp_path / name)
    edit(tmp_path / where, model__layers__1__self_attn__q_proj__weight=None)
    with pytest.raises(ConfigError, match=r"must hold tensor model\.layers\.1\.self_attn\.q_proj\.weight") as caught:
        align(tmp_path / "base", tmp_path / "sft")
    assert caught.value.field == where
    assert str(tmp_path / "base") in caught.value.fix


def test_misshaped_tensor_is_named(tmp_path: Path) -> None:
    base, sft = save(qwen2(0), tmp_path / "base"), save(qwen2(0), tmp_path / "sft")
    edit(base, model__layers__2__mlp__up_proj__weight=torch.zeros(47, 32))
    expected = r"^base must .*model\.layers\.2\.mlp\.up_proj\.weight .*shape \[48, 32\], got \[47, 32\]\. Compare"
    with pytest.raises(ConfigError, match=expected):
        align(base, sft)


def test_embedding_of_another_width_is_no_added_token(tmp_path: Path) -> None:
    base, sft = save(qwen2(0), tmp_path / "base"), save(qwen2(0), tmp_path / "sft")
    edit(base, model__embed_tokens__weight=torch.zeros(61, 16))
    with pytest.raises(ConfigError, match="embed_tokens"):
        align(base, sft)


@pytest.mark.parametrize(
    ("field", "value"), [("num_attention_heads", 2), ("rms_norm_eps", 1e-5), ("rope_parameters", {"rope_theta": 5e5})]
)
def test_configs_of_different_architectures_are_refused(tmp_path: Path, field: str, value: object) -> None:
    base, sft = save(qwen2(0, **{field: value}), tmp_path / "base"), save(moved(qwen2(0), 1), tmp_path / "sft")
    with pytest.raises(ConfigError, match=field if "rope" not in field else "rope_theta"):
        align(base, sft)
