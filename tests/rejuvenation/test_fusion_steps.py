from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from configs.errors import ConfigError
from configs.fusion import BASE_FREE, FUSIONS, FusionConfig
from configs.rejuvenation import RejuvenationConfig
from rejuvenation import blocks, transform
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.fused import Fused
from rejuvenation.fusions import fusions_of
from rejuvenation.fusions.breadcrumbs import Breadcrumbs
from rejuvenation.fusions.dare import Dare
from rejuvenation.fusions.fusion import Place
from rejuvenation.fusions.linear import GroupAlpha, Linear
from rejuvenation.fusions.magnitudes import histogram, threshold
from rejuvenation.fusions.noise import normal, uniform
from rejuvenation.fusions.norm_clip import NormClip
from rejuvenation.fusions.shrink_and_perturb import ShrinkAndPerturb
from rejuvenation.fusions.slerp import Slerp
from rejuvenation.fusions.spectral_clip import SpectralClip
from rejuvenation.fusions.spike_clip import SpikeClip, WeightClip
from rejuvenation.fusions.temperature import Temperature
from rejuvenation.fusions.ties import Ties
from tests.rejuvenation.tiny import moved, qwen2, save


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_alpha_may_differ_by_group() -> None:
    fusion = GroupAlpha(0.5, {"norms": 1.0, "up": 0.25})
    base, sft = torch.zeros(2, 2), torch.full((2, 2), 4.0)
    names = ["model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.down_proj.weight", "model.norm.weight"]
    assert [fusion(base, sft, name)[0, 0].item() for name in names] == [1.0, 2.0, 4.0]


def test_slerp_goes_along_the_arc() -> None:
    base, sft = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    third = Slerp(1 / 3)(base, sft)
    assert torch.allclose(third, torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]]))
    assert torch.allclose(Slerp(0.5)(base, 2 * base), 1.5 * base), "parallel tensors: a straight line"
    assert Slerp(0.5)(base, -base).isfinite().all(), "opposite tensors have no arc; the line goes through 0"


def test_ties_keeps_the_largest_deltas() -> None:
    base = torch.ones(1, 8)
    delta = torch.tensor([[0.5, -4.0, 0.25, 2.0, -0.125, 1.0, 0.0, -8.0]])
    fused = Ties(0.5, density=0.375)(base, base + delta)  # 3 of 8
    assert (fused - base).tolist() == [[0.0, -2.0, 0.0, 1.0, 0.0, 0.0, 0.0, -4.0]]
    assert torch.equal(Ties(0.5, density=0.0)(base, base + delta), base)
    assert torch.equal(Ties(1.0, density=1.0)(base, base + delta), base + delta)


def test_breadcrumbs_drop_the_spikes_and_the_crumbs() -> None:
    base = torch.ones(1, 8)
    delta = torch.tensor([[0.5, -4.0, 0.25, 2.0, -0.125, 1.0, 0.0, -8.0]])
    fused = Breadcrumbs(0.5, density=0.25, spikes=0.125)(base, base + delta)  # the largest goes, the next two stay
    assert (fused - base).tolist() == [[0.0, -2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]]


def test_breadcrumbs_of_few_distinct_deltas_keep_what_they_are_to_keep() -> None:
    """All deltas fall into one bin: as none may go as too large without all going, none does."""
    base = torch.ones(1000)
    sft = base.clone()
    sft[:30] += 2.0**-7
    fused = Breadcrumbs(0.5, density=0.2, spikes=0.01)(base, sft)
    assert (fused != base).sum() == 30


def test_threshold_is_the_quantile_to_one_part_in_128() -> None:
    values = noise(300, 700)
    for share in (0.001, 0.1, 0.5, 0.999):
        found = threshold(histogram(values[:100]) + histogram(values[100:]), share)
        exact = values.abs().flatten().quantile(1 - share).item() if share < 0.9 else 0.0
        assert (values.abs() >= found).float().mean().item() == pytest.approx(share, rel=0.05)
        assert share > 0.9 or exact * (1 - 2 / 128) <= found <= exact * 1.001
    assert threshold(histogram(values), 0.0) == math.inf


def test_dare_is_the_linear_fusion_in_expectation() -> None:
    base, sft = noise(400, 500), noise(400, 500, seed=1)
    fused = Dare(0.5, drop=0.75, seed=3)(base, sft)
    changed = fused != base
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert torch.allclose(fused[changed], (base + 2.0 * (sft - base))[changed], atol=1e-6)
    assert not torch.equal(Dare(0.5, drop=0.75, seed=4)(base, sft), fused)


def test_norm_clip_scales_the_delta_down_to_its_limit() -> None:
    base, delta = noise(20, 30), noise(20, 30, seed=1)
    fused = NormClip(0.1)(base, base + delta)
    assert (fused - base).norm() == pytest.approx(0.1 * base.norm().item(), rel=1e-5)
    assert torch.nn.functional.cosine_similarity((fused - base).flatten(), delta.flatten(), dim=0) > 0.99999
    small = base + 1e-3 * delta
    assert torch.equal(NormClip(0.1)(base, small), small)


def test_spikes_are_clipped_and_nothing_else() -> None:
    base, sft = torch.zeros(1, 100), torch.full((1, 100), 0.1)
    sft[0, 7], sft[0, 9] = 10.0, -10.0
    limit = 3.0 * sft.pow(2).mean().sqrt()
    fused = SpikeClip(3.0)(base, sft)
    assert fused[0, [7, 9]].tolist() == pytest.approx([limit.item(), -limit.item()])
    rest = [i for i in range(100) if i not in (7, 9)]
    assert torch.equal(fused[0, rest], sft[0, rest])
    assert torch.equal(WeightClip(3.0)(base + 5.0, sft), fused), "the same of the weights, whatever the base"
    assert torch.equal(WeightClip(3.0)(base[0], sft[0]), sft[0]), "a vector stays"


def test_shrink_and_perturb_has_the_size_it_says() -> None:
    sft = 3.0 * noise(300, 400)
    fused = ShrinkAndPerturb(0.8, 0.1, seed=0)(sft, sft)
    added = fused - 0.8 * sft
    assert added.std().item() == pytest.approx(0.1 * sft.pow(2).mean().sqrt().item(), rel=0.01)
    assert abs(added.mean().item()) < 0.01
    assert abs((added * sft).mean().item()) < 0.01, "independent of the weights"
    assert torch.equal(ShrinkAndPerturb(0.8, 0.1, seed=0)(sft[0], sft[0]), sft[0]), "a vector stays"


def test_temperature_divides_every_logit() -> None:
    model = qwen2(0)
    ids = torch.tensor([[3, 14, 15, 9]])
    before = model(input_ids=ids).logits
    weight = model.model.norm.weight
    weight.copy_(Temperature(1.6)(weight, weight, "model.norm.weight"))
    assert torch.allclose(model(input_ids=ids).logits, before / 1.6, atol=1e-4)
    other = noise(4, 4)
    assert torch.equal(Temperature(1.6)(other, other, "model.layers.0.mlp.up_proj.weight"), other)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_spectral_clip_caps_singular_values_alone(shape: tuple[int, int]) -> None:
    left, values, right = torch.linalg.svd(noise(*shape).double(), full_matrices=False)
    values[:2] = torch.tensor([60.0, 50.0])
    limit = 1.5 * values.pow(2).mean().sqrt()
    weight = (left * values) @ right
    clipped = SpectralClip(1.5)(weight, weight)
    assert torch.allclose(clipped, (left * values.clamp(max=limit)) @ right, atol=1e-8)
    assert limit < 50.0
    assert limit > values[2]
    assert torch.equal(SpectralClip(9.0)(weight, weight), weight)


def test_what_a_step_cannot_treat_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.weight: spectral_clip treats matrices of up to 8192 columns, got 9000"):
        SpectralClip(1.0)(torch.ones(2, 9000), torch.ones(2, 9000), "a.weight")
    sft = save(qwen2(0), tmp_path / "sft")
    config = sft / "config.json"
    config.write_text(config.read_text().replace("Qwen2ForCausalLM", "GPTNeoXForCausalLM"))
    with pytest.raises(ConfigError, match=r"fusion\.temperature for Qwen2ForCausalLM"):
        transform(None, sft, tmp_path / "out", RejuvenationConfig(steps=["fusion.temperature"]), seed=0)
    with pytest.raises(ConfigError, match=r"fusion\.spikes must leave room for fusion\.density"):
        RejuvenationConfig(steps=["fusion.breadcrumbs"], fusion=FusionConfig(density=1.0))
    RejuvenationConfig(steps=["fusion.ties"], fusion=FusionConfig(density=1.0))
    RejuvenationConfig(steps=["fusion.breadcrumbs"], fusion=FusionConfig(density=0.9, spikes=0.1))


def test_noise_belongs_to_the_place_not_to_the_block() -> None:
    place = Place("a.weight", (50, 20))
    whole = uniform(place, torch.empty(50, 20), seed=7)
    parts = [uniform(Place("a.weight", (50, 20), start), torch.empty(10, 20), seed=7) for start in range(0, 50, 10)]
    assert torch.equal(torch.cat(parts), whole)
    assert 0.0 < whole.min() < 0.01
    assert 0.99 < whole.max() < 1.0
    assert not torch.equal(uniform(Place("b.weight", (50, 20)), torch.empty(50, 20), seed=7), whole)
    drawn = normal(Place("a.weight", (300, 300)), torch.empty(300, 300), seed=1)
    assert (drawn.mean().item(), drawn.std().item()) == pytest.approx((0.0, 1.0), abs=0.01)
    assert drawn.pow(4).mean().item() == pytest.approx(3.0, abs=0.1), "the fourth moment of a normal"


SETTINGS = FusionConfig(group_alpha={"up": 0.2}, norm_ratio=0.02, spike_limit=1.0, spectral_limit=1.2, density=0.3)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_gives_the_same_bytes_in_blocks_and_changes_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    base, sft = save(qwen2(0), tmp_path / "base"), save(moved(qwen2(0), 1), tmp_path / "sft")
    config = RejuvenationConfig(steps=[f"fusion.{name}"], fusion=SETTINGS)
    found = []
    for number, (block_bytes, threads) in enumerate([(1 << 20, 1), (300, 1), (300, 3)]):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            transform(base, sft, tmp_path / str(number), config, seed=0)
        finally:
            torch.set_num_threads(before)
        found.append(dict(CheckpointReader(tmp_path / str(number)).items()))
    source = dict(CheckpointReader(sft).items())
    assert any(not torch.equal(found[0][tensor], source[tensor]) for tensor in source)
    for tensor, value in found[0].items():
        assert value.isfinite().all()
        assert torch.equal(found[1][tensor], found[2][tensor]), "threads"
        # measured in other blocks, sums round otherwise: facts differ in the last digit
        torch.testing.assert_close(found[1][tensor], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(FUSIONS) - set(BASE_FREE)))
def test_equal_checkpoints_stay_as_they_are(tmp_path: Path, name: str) -> None:
    sft = save(moved(qwen2(0), 1), tmp_path / "sft")
    config = RejuvenationConfig(steps=[f"fusion.{name}"], fusion=SETTINGS)
    transform(sft, sft, tmp_path / "out", config, seed=0)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (sft / "model.safetensors").read_bytes()


def test_fusions_follow_each_other_and_round_once(tmp_path: Path) -> None:
    base, sft = save(qwen2(0), tmp_path / "base"), save(moved(qwen2(0), 1), tmp_path / "sft", dtype=torch.bfloat16)
    alignment = Alignment(CheckpointReader(base), CheckpointReader(sft))
    config = RejuvenationConfig(steps=["fusion.spike_clip", "fusion.norm_clip", "fusion.linear"], fusion=SETTINGS)
    view = Fused(alignment, config)
    for name in alignment.sft.entries:
        fused = view.tensor(name)
        anchor, value = alignment.base.tensor(name), alignment.sft.tensor(name).float()
        for fusion in (SpikeClip(1.0), NormClip(0.02), Linear(0.5)):
            value = fusion(anchor, value, name)
        assert torch.equal(fused, value.bfloat16()), name


def test_repair_without_a_base(tmp_path: Path) -> None:
    sft = save(moved(qwen2(0), 1), tmp_path / "sft")
    for name in BASE_FREE:
        report = transform(
            None, sft, tmp_path / name, RejuvenationConfig(steps=[f"fusion.{name}"], fusion=SETTINGS), seed=0
        )
        assert report.notes[0].startswith("no base checkpoint was given")
        assert report.hashes.keys() == {"sft", "output"}
        assert report.hashes["sft"] != report.hashes["output"]
    with pytest.raises(ConfigError, match="base must be given"):
        transform(None, sft, tmp_path / "out", RejuvenationConfig(steps=["fusion.linear"]), seed=0)


def test_every_name_has_its_fusion() -> None:
    for name in FUSIONS:
        config = RejuvenationConfig(steps=[f"fusion.{name}"])
        assert len(fusions_of(config, 0)) == 1
