from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import xxhash
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Gemma2Config,
    GraniteConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    Olmo2Config,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation import Report, TokenPair, transform
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.fused import Fused
from rejuvenation.neurons import KINDS, NeuronTable
from rejuvenation.repair import Repair
from rejuvenation.reset_set import Evidence, reset_set
from rejuvenation.scored_model import entropies, map_deterministically, put_weights
from rejuvenation.scoring import NeuronScorer, target_tokens
from rejuvenation.spread import Weights
from tests.rejuvenation.tiny import KINDS_OF_MODEL, moved, save, tiny, token_pairs

PAIRS = token_pairs(6)
SETTINGS = {"rho": 0.01, "target_tokens": 3}


def stored(
    path: Path, architecture: str = "qwen2", *, tied: bool = True, shards: bool = False, size: float = 0.1
) -> tuple[Path, Path]:
    base = tiny(architecture, 0, tied=tied)
    return save(base, path / "base", shards=shards), save(moved(base, 1, size), path / "sft", shards=shards)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(CheckpointReader(path).items())


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)) for name in a)


def changed_neurons(
    table: NeuronTable, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> torch.Tensor:
    """[neurons] bool: neurons whose weights differ between two checkpoints."""
    parts = []
    for module in table.modules:
        differs = (before[f"{module.path}.weight"] != after[f"{module.path}.weight"]).any(1 - module.axis)
        parts.append(differs)
    return torch.cat(parts)


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL)
def test_reset_neurons_are_base_and_all_else_is_fused(tmp_path: Path, architecture: str, tied: bool) -> None:
    base, sft = stored(tmp_path, architecture, tied=tied)
    fusion = transform(base, sft, tmp_path / "fused", RejuvenationConfig(steps=["fusion.linear"]), [], seed=0)
    report = transform(base, sft, tmp_path / "out", RejuvenationConfig(**SETTINGS), PAIRS, seed=0)
    table = NeuronTable.of(CheckpointReader(sft))
    fused, out, anchor = weights(tmp_path / "fused"), weights(tmp_path / "out"), weights(base)
    reset = changed_neurons(table, fused, out)
    assert torch.equal(reset & ~changed_neurons(table, anchor, out), reset)
    for name in out:
        if not any(f".{path}." in name for path in KINDS.values()):
            assert torch.equal(out[name], fused[name]), name
    assert fusion.num_reset == 0
    assert fusion.entropy_at_targets is None
    heads = 4 * (12 if architecture == "qwen3" else 8)
    assert report.num_neurons == table.total == 3 * (3 * heads + 3 * 48)
    assert report.num_reset == int(reset.sum()) > round(0.01 * table.total)
    assert report.effective_ratio == report.num_reset / table.total
    assert report.counts == table.counts(reset)
    assert sum(report.counts_per_layer) == sum(report.counts_per_module.values()) == report.num_reset
    assert report.num_pairs == 6
    assert report.num_target_tokens == 18
    assert report.reconstruction_error is not None
    assert report.reconstruction_error < 1e-4
    assert report.settings["rho"] == 0.01
    assert Report.load(tmp_path / "out") == report


def test_entropies_in_the_report_are_those_of_the_four_checkpoints(tmp_path: Path) -> None:
    base, sft = stored(tmp_path)
    config = RejuvenationConfig(**SETTINGS)
    transform(base, sft, tmp_path / "fused", RejuvenationConfig(steps=["fusion.linear"]), [], seed=0)
    report = transform(base, sft, tmp_path / "out", config, PAIRS, seed=0)
    measured = {}
    for name, path in [("base", base), ("sft", sft), ("fused", tmp_path / "fused"), ("rejuvenated", tmp_path / "out")]:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        rows = []
        for pair in PAIRS:  # written out: -sum p log p at the positions that predict the response
            logits = model(input_ids=torch.tensor([pair.token_ids])).logits[0].double()
            p = logits[len(pair.prompt_ids) - 1 : -1].softmax(1)
            rows.append(-(p * p.log()).sum(1).detach())
        measured[name] = rows
    gaps = [sft - base for sft, base in zip(measured["sft"], measured["base"], strict=True)]
    targets = [target_tokens(gap, 3) for gap in gaps]
    for name, rows in measured.items():
        assert getattr(report.entropy_on_responses, name) == pytest.approx(torch.cat(rows).mean().item(), rel=1e-4)
        chosen = torch.cat([row[index] for row, index in zip(rows, targets, strict=True)])
        assert getattr(report.entropy_at_targets, name) == pytest.approx(chosen.mean().item(), rel=1e-4)
    assert len({round(value.item(), 6) for value in (torch.cat(rows).mean() for rows in measured.values())}) == 4


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL)
def test_planted_unit_is_found_and_its_reset_lowers_the_logit_as_scored(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    """Check 8: alpha 1, a last-layer down column along d with a positive activation."""
    pair = TokenPair([4, 9, 33], [27])  # one response token: the target is position 2
    base = tiny(architecture, 0, tied=tied)
    sft = moved(base, 1)
    kept: dict[str, torch.Tensor] = {}
    name = "model.layers.2.mlp.down_proj.weight"

    def activation(module: object, args: tuple[torch.Tensor, ...]) -> None:
        kept["activation"] = args[0][0, -1].clone()

    def stream(module: object, args: tuple[torch.Tensor, ...]) -> None:
        kept["stream"] = args[0][0, -1].clone()

    sft.model.layers[2].mlp.down_proj.register_forward_pre_hook(activation)
    sft.model.norm.register_forward_pre_hook(stream)
    sft(input_ids=torch.tensor([pair.prompt_ids]))
    unit = int(kept["activation"].argmax())
    assert kept["activation"][unit] > 0
    along = sft.model.norm.weight * sft.lm_head.weight[27]
    sft.model.layers[2].mlp.down_proj.weight[:, unit] = 3.0 * along / along.norm()
    base_dir, sft_dir = save(base, tmp_path / "base"), save(sft, tmp_path / "sft")

    config = RejuvenationConfig(alpha=1.0, rho=0.02)
    transform(base_dir, sft_dir, tmp_path / "out", config, [pair], seed=0)
    table = NeuronTable.of(CheckpointReader(sft_dir))
    down = next(module for module in table.modules if (module.layer, module.kind) == (2, "down"))
    with NeuronScorer(sft, table) as attributor:
        scores = attributor.scores(pair, [0]).scores[0]
    every_down = torch.cat([scores[module.neurons] for module in table.modules if module.kind == "down"])
    assert every_down.argmax() == 2 * 48 + unit
    before, after, anchor = weights(sft_dir), weights(tmp_path / "out"), weights(base_dir)
    assert torch.equal(after[name][:, unit], anchor[name][:, unit])
    assert not torch.equal(before[name][:, unit], anchor[name][:, unit])

    selected = torch.zeros(table.total, dtype=torch.bool)
    selected[down.offset + unit] = True
    alignment = Alignment(CheckpointReader(base_dir), CheckpointReader(sft_dir))
    put_weights(sft, dict(alignment.sft.items()))
    sft(input_ids=torch.tensor([pair.prompt_ids]))
    full, a = kept["stream"].double(), kept["activation"][unit].double()
    repair = Repair(Fused(alignment, config), config, table, selected)
    put_weights(sft, Weights(alignment.sft.entries, repair.tensor))
    sft(input_ids=torch.tensor([pair.prompt_ids]))
    direction = torch.rsqrt(full.pow(2).mean() + sft.config.rms_norm_eps) * along.double()
    fall = (full - kept["stream"].double()) @ direction
    expected = a * ((before[name] - anchor[name])[:, unit].double() @ direction)
    assert fall.item() == pytest.approx(expected.item(), rel=1e-5)
    assert expected > 0.5


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL)
def test_result_depends_on_neither_order_nor_threads_nor_repetition(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    """Check 9, first part; the report agrees too, times apart."""
    base, sft = stored(tmp_path, architecture, tied=tied)
    config = RejuvenationConfig(**SETTINGS)
    reports = []
    threads = torch.get_num_threads()
    try:
        for number, (pairs, count) in enumerate(
            [(PAIRS, 1), (PAIRS, 1), (PAIRS[::-1], 1), (PAIRS, 2), (PAIRS[::-1], 3)]
        ):
            torch.set_num_threads(count)
            report = transform(base, sft, tmp_path / str(number), config, pairs, seed=0)
            assert torch.get_num_threads() == count
            reports.append({key: value for key, value in report.to_json().items() if key != "seconds"})
    finally:
        torch.set_num_threads(threads)
    files = [(tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(5)]
    assert all(file == files[0] for file in files)
    assert all(report == reports[0] for report in reports)


def test_each_pair_is_scored_on_one_thread_whatever_torch_has() -> None:
    """The sizes above are too small for a reduction to be shared by threads; here the mechanism itself is seen."""
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found = map_deterministically(lambda item: (item, torch.get_num_threads()), range(8), torch.device("cpu"))
            assert found == [(item, 1) for item in range(8)]
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=KINDS_OF_MODEL, ids=lambda param: f"{param[0]}-{param[1]}")
def scored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    architecture, tied = request.param
    base, sft = stored(tmp_path_factory.mktemp("scored"), architecture, tied=tied)
    table = NeuronTable.of(CheckpointReader(sft))
    models = [AutoModelForCausalLM.from_pretrained(d, attn_implementation="eager") for d in (base, sft)]
    pairs = zip(*(entropies(model, PAIRS) for model in models), strict=True)
    targets = [target_tokens(after - before, 3) for before, after in pairs]
    return models[1].requires_grad_(False), table, targets, Alignment(CheckpointReader(base), CheckpointReader(sft))


def chosen(scored: tuple, count: int = 6, **settings: object) -> torch.Tensor:
    model, table, targets, alignment = scored
    config = RejuvenationConfig(**{**SETTINGS, **settings})
    evidence = Evidence(model, table, config, alignment, PAIRS[:count], targets[:count])
    return reset_set(config, table, alignment, evidence, seed=0)[0]


def test_union_only_grows_with_rho_and_pairs(scored: tuple) -> None:
    """Check 9, second part."""
    for sets in (
        [chosen(scored, rho=rho) for rho in (0.001, 0.005, 0.01, 0.05, 0.2)],
        [chosen(scored, count) for count in (1, 2, 4, 6)],
    ):
        for smaller, larger in pairwise(sets):
            assert not (smaller & ~larger).any()
            assert larger.sum() > smaller.sum()


def test_settings_change_the_reset_set(scored: tuple) -> None:
    default = chosen(scored)
    for setting in ({"ranking": "per_layer"}, {"ranking": "per_module"}, {"score_sign": "absolute"}):
        assert not torch.equal(chosen(scored, **setting), default), setting
    capped = chosen(scored, union_cap=0.03)
    assert capped.sum() == int(0.03 * len(default))
    assert not (capped & ~default).any()
    assert chosen(scored, ranking="per_module", rho=0.001).sum() >= 21, "at least one of each of the 21 modules"


def test_random_reset_is_another_set_of_equal_size(scored: tuple) -> None:
    default, drawn = chosen(scored), chosen(scored, steps=["fusion.linear", "reset.random"])
    assert drawn.sum() == default.sum()
    assert not torch.equal(drawn, default)


def test_neurons_are_scored_on_the_sft_checkpoint_whatever_alpha(tmp_path: Path, scored: tuple) -> None:
    base, sft = scored[3].base.directory, scored[3].sft.directory
    expected = chosen(scored)
    for alpha in (0.1, 0.5):
        config = RejuvenationConfig(**SETTINGS, alpha=alpha)
        transform(base, sft, tmp_path / f"{alpha}", config, PAIRS, seed=0)
        transform(
            base, sft, tmp_path / f"fused {alpha}", RejuvenationConfig(alpha=alpha, steps=["fusion.linear"]), [], seed=0
        )
        fused, out = weights(tmp_path / f"fused {alpha}"), weights(tmp_path / f"{alpha}")
        assert torch.equal(changed_neurons(scored[1], fused, out), expected)


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL)
def test_one_file_and_many_shards_give_the_same_tensors(tmp_path: Path, architecture: str, tied: bool) -> None:
    """Check 10; Base and SFT may also be cut differently."""
    config = RejuvenationConfig(**SETTINGS)
    one, many = (
        stored(tmp_path / "one", architecture, tied=tied),
        stored(tmp_path / "many", architecture, tied=tied, shards=True),
    )
    results = []
    for number, (base, sft) in enumerate([one, many, (one[0], many[1]), (many[0], one[1])]):
        transform(base, sft, tmp_path / str(number), config, PAIRS, seed=0)
        results.append(weights(tmp_path / str(number)))
    assert all(equal(result, results[0]) for result in results)
    assert not equal(results[0], weights(one[1]))


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL)
def test_output_loads_in_transformers_and_generates(tmp_path: Path, architecture: str, tied: bool) -> None:
    """Check 12, first part."""
    base, sft = stored(tmp_path, architecture, tied=tied, shards=True)
    transform(base, sft, tmp_path / "out", RejuvenationConfig(**SETTINGS), PAIRS, seed=0)
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    tokens = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=5, do_sample=False, eos_token_id=-1)
    assert tokens.shape == (1, 8)


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (Gemma2Config, {"head_dim": 8}),  # soft-capped logits, norms after the modules
        (Olmo2Config, {}),  # norms after the modules
        (MixtralConfig, {"num_local_experts": 2}),  # a mixture of experts
        (GraniteConfig, {"logits_scaling": 2.0}),  # scaled logits
    ],
)
def test_other_architectures_are_refused_for_the_reset_but_fuse(tmp_path: Path, config: type, own: dict) -> None:
    shape = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
    for seed, name in enumerate(("base", "sft")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config(**shape, num_attention_heads=4, num_key_value_heads=2, **own))
        model.save_pretrained(tmp_path / name)
    arguments = (tmp_path / "base", tmp_path / "sft", tmp_path / "out")
    with pytest.raises(ConfigError, match=rf"{type(model).__name__}.*Fusion alone works") as caught:
        transform(*arguments, RejuvenationConfig(), PAIRS, seed=0)
    assert caught.value.field == "rejuvenation.steps"
    assert not (tmp_path / "out").exists()
    report = transform(*arguments, RejuvenationConfig(steps=["fusion.linear"]), PAIRS, seed=0)
    if config is MixtralConfig:  # whose experts are stacked in memory
        assert any("entropies were not measured" in note for note in report.notes)
    else:
        assert report.entropy_on_responses is not None
    base, sft, out = (weights(tmp_path / name) for name in ("base", "sft", "out"))
    name = "model.layers.1.self_attn.q_proj.weight"
    torch.testing.assert_close(out[name], (base[name] + sft[name]) / 2)


TEXT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def seeing(kind: str) -> torch.nn.Module:
    """A language model with a vision tower."""
    if kind == "llava":
        tower = {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
        vision = CLIPVisionConfig(hidden_size=16, intermediate_size=24, **tower)
        config = LlavaConfig(vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_index=60)
        return LlavaForConditionalGeneration(config)
    text = {**TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))


@pytest.mark.parametrize(("kind", "tower"), [("llava", "vision_tower."), ("qwen2_vl", "visual.")])
def test_models_with_a_vision_tower_are_refused_for_the_reset_but_fuse(tmp_path: Path, kind: str, tower: str) -> None:
    for seed, place in enumerate(("base", "sft")):
        torch.manual_seed(seed)
        model = seeing(kind)
        model.save_pretrained(tmp_path / place)
    arguments = (tmp_path / "base", tmp_path / "sft")
    with pytest.raises(ConfigError, match=rf"{type(model).__name__}.*Fusion alone works"):
        transform(*arguments, tmp_path / "reset", RejuvenationConfig(), PAIRS, seed=0)
    fusion = RejuvenationConfig(steps=["fusion.linear"])
    for pairs in ([], PAIRS):
        report = transform(*arguments, tmp_path / f"{len(pairs)}", fusion, pairs, seed=0)
        assert [note.startswith("entropies were not measured") for note in report.notes] == [True] * bool(pairs)
        base, sft, out = (weights(path) for path in (*arguments, tmp_path / f"{len(pairs)}"))
        assert out.keys() == sft.keys()
        name = next(name for name in sft if tower in name and not torch.equal(base[name], sft[name]))
        torch.testing.assert_close(out[name], (base[name] + sft[name]) / 2)
    loaded = type(model).from_pretrained(tmp_path / "0")
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())


def test_hashes_are_those_of_the_files_however_they_are_laid_out(tmp_path: Path) -> None:
    base, sft = stored(tmp_path)
    many = save(tiny("qwen2", 0), tmp_path / "many", shards=True)
    for number, anchor in enumerate((base, many)):
        out = tmp_path / str(number)
        report = transform(anchor, sft, out, RejuvenationConfig(steps=["fusion.linear"]), seed=0)
        for role, directory in (("base", anchor), ("sft", sft), ("output", out)):
            files = {path.name: xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in directory.glob("*.safetensors")}
            assert report.hashes[role] == files, role


def test_reset_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="calibration must be given"):
        transform(*stored(tmp_path), tmp_path / "out", RejuvenationConfig(), [], seed=0)


def test_low_precision_checkpoints_are_scored_too(tmp_path: Path) -> None:
    base, sft = stored(tmp_path)
    config = RejuvenationConfig(**SETTINGS, scoring_dtype="bfloat16")
    coarse = transform(base, sft, tmp_path / "coarse", config, PAIRS, seed=0)
    exact = transform(base, sft, tmp_path / "exact", RejuvenationConfig(**SETTINGS), PAIRS, seed=0)
    assert coarse.reconstruction_error > 10 * exact.reconstruction_error  # bfloat16 activations round
    assert coarse.num_reset == pytest.approx(exact.num_reset, rel=0.3)
