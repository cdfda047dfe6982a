from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from configs.diagnosis import DIAGNOSTICS, DiagnosisConfig
from configs.errors import ConfigError
from envs.registry import make
from examples.toy.ladder import HERE, ensure_rung
from rejuvenation import cli, diagnose
from rejuvenation.diagnostics import ladder_model
from rejuvenation.diagnostics.material import Material
from rejuvenation.diagnostics.side_by_side import names, rows, tables
from tests.rejuvenation.tiny import moved, qwen2, save, token_pairs

PAIRS = token_pairs(6)
SMALL = {"prompts": 4, "samples": 4, "group_size": 2, "k": 2, "max_new_tokens": 5, "sharpness_pairs": 2}


def ladder(tmp_path: Path) -> tuple[Path, Path, Path]:
    base = qwen2(0)
    near, far = moved(base, 1, size=0.02), moved(base, 2, size=0.3)
    return save(base, tmp_path / "base"), save(near, tmp_path / "near"), save(far, tmp_path / "far")


def test_entropy_and_drift_of_one_checkpoint(tmp_path: Path) -> None:
    base = qwen2(0)
    sft = moved(base, 1, size=0.0)
    sft.lm_head.weight.mul_(2.0)  # tied: sharper, and the embeddings move by their own norm
    sft.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    config = DiagnosisConfig(only=("entropy", "drift"))
    diagnosis = diagnose(save(base, tmp_path / "base"), save(sft, tmp_path / "sft"), PAIRS, config=config)
    assert diagnosis.sft.entropy.mean < diagnosis.base.entropy.mean
    assert diagnosis.sft.entropy.high_share <= diagnosis.base.entropy.high_share
    assert diagnosis.drift["embeddings"] == pytest.approx(1.0)
    assert diagnosis.drift["q"] == diagnosis.drift["norms"] == 0.0
    squares = [base.model.layers[layer].mlp.up_proj.weight.square().sum() for layer in range(3)]
    assert diagnosis.drift["up"] == pytest.approx((0.25 * squares[1] / sum(squares)).sqrt().item(), rel=1e-4)
    assert diagnosis.drift_per_tensor["model.layers.1.mlp.up_proj.weight"] == pytest.approx(0.5)
    assert diagnosis.sft.entropy.num_tokens == sum(len(pair.response_ids) for pair in PAIRS)
    assert diagnosis.sft.loss is diagnosis.sft.passes is diagnosis.changed is None, "not asked for"


def test_checkpoint_of_a_ladder_gets_the_numbers_it_gets_alone(tmp_path: Path) -> None:
    base, near, far = ladder(tmp_path)
    indices: set[int] = set()

    def reward(index: int, text: str) -> float:
        indices.add(index)
        assert text.split(), "token ids, where there is no tokenizer"
        return float(int(text.split()[0]) % 2)

    settings = {"prompts": [pair.prompt_ids for pair in PAIRS], "reward": reward, "config": DiagnosisConfig(**SMALL)}
    both = diagnose(base, [near, far], PAIRS, **settings)
    alone = diagnose(base, far, PAIRS, **settings)
    assert len(indices) == 4 < len(PAIRS), "as many prompts as configured, by their places"
    found = [diagnosis.to_json() for diagnosis in (both[1], alone)]
    for diagnosis in found:
        diagnosis["seconds"] = diagnosis["base"]["seconds"] = diagnosis["sft"]["seconds"] = None
    assert found[0] == found[1]
    json.dumps(found, allow_nan=False)
    assert both[0].base is both[1].base
    assert both[0].notes == []
    assert both[0].drift["all"] < both[1].drift["all"]
    assert 0 < both[0].sft.passes.pass_at_1 < 1
    assert both[0].sft.passes.samples * 4 == 16


def test_reward_gets_the_place_of_its_prompt_among_those_given(tmp_path: Path) -> None:
    base, near, _ = ladder(tmp_path)
    prompts = [pair.prompt_ids for pair in token_pairs(9, seed=5)]
    config = DiagnosisConfig(**SMALL, only=("passes",))
    material = Material.of(near, [], prompts, None, config)
    assert material.prompts == [prompts[index] for index in material.indices]
    assert material.indices != [0, 1, 2, 3]
    assert sorted(material.prompts) == sorted(Material.of(near, [], prompts[::-1], None, config).prompts)
    third = material.indices[2]
    diagnosis = diagnose(base, near, prompts=prompts, reward=lambda index, _: float(index == third), config=config)
    assert diagnosis.sft.passes.solved == [0, 0, 4, 0]


def test_untouched_checkpoint_has_the_bases_numbers(tmp_path: Path) -> None:
    base = save(qwen2(0), tmp_path / "base")
    same = save(qwen2(0), tmp_path / "same")
    config = DiagnosisConfig(**SMALL)
    diagnosis = diagnose(base, same, PAIRS, reward=lambda index, text: float(index % 2), config=config)
    found = [{**part, "seconds": None} for part in (diagnosis.to_json()["base"], diagnosis.to_json()["sft"])]
    assert found[0] == found[1]
    assert diagnosis.drift["all"] == diagnosis.changed["all"] == diagnosis.rank_delta["all"] == 0.0
    assert diagnosis.rank_base == diagnosis.rank_sft
    assert diagnosis.notes == [f"gradient of {same}: 0, because no group has rewards that differ"]


def test_checkpoints_of_other_shapes_share_a_ladder(tmp_path: Path) -> None:
    base, near, _ = ladder(tmp_path)
    wider = save(qwen2(3, vocab_size=70), tmp_path / "wider")  # with added tokens
    config = DiagnosisConfig(only=("entropy", "drift"))
    both = diagnose(base, [near, wider], PAIRS, config=config)
    assert both[1].sft.entropy == diagnose(base, wider, PAIRS, config=config).sft.entropy
    assert any("9 rows that the base lacks" in note for note in both[1].notes)


def test_weights_alone_need_no_data_and_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, near, _ = ladder(tmp_path)
    monkeypatch.setattr(ladder_model, "load_model", None)
    diagnosis = diagnose(base, near)
    assert diagnosis.sft.entropy is diagnosis.sft.sharpness_on_text is None
    assert min(diagnosis.drift["all"], diagnosis.changed["all"], diagnosis.rank_delta["all"]) > 0
    assert {note.split()[0] for note in diagnosis.notes} == set(DIAGNOSTICS) - {"drift", "changes", "rank"}
    with pytest.raises(ConfigError, match="entropy needs calibration pairs"):
        diagnose(base, near, config=DiagnosisConfig(only=("entropy",)))


def test_diagnostics_that_cannot_fit_are_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, near, _ = ladder(tmp_path)
    weights = 4 * sum(parameter.numel() for parameter in qwen2(0).parameters())
    monkeypatch.setattr(ladder_model, "available_bytes", lambda: 6 * weights)
    with pytest.raises(ConfigError, match=r"sharpness takes .* GB, .* Leave it out with --only"):
        diagnose(base, near, PAIRS)
    diagnose(base, near, PAIRS, config=DiagnosisConfig(only=("entropy", "gradient")))


def test_wide_ladder_is_split_into_tables_of_eighty_columns(tmp_path: Path) -> None:
    base, near, far = ladder(tmp_path)
    (tmp_path / "other").mkdir()
    twin = save(qwen2(0), tmp_path / "other" / "near")
    found = diagnose(base, [near, far, twin, base], config=DiagnosisConfig(only=("drift",)))
    assert names(found) == [f"{tmp_path.name}/near", f"{tmp_path.name}/far", "other/near", f"{tmp_path.name}/base"]
    assert [len(table.columns) for table in tables(found)] == [5, 3]
    assert next(label for label, cells in rows(found) if cells[1] != "-") == "drift, all weights"


def test_numbers_that_overflow_are_null_in_json(tmp_path: Path) -> None:
    base, near, _ = ladder(tmp_path)
    config = DiagnosisConfig(only=("sharpness",), perturbations=(0.01, 1e38), **SMALL)
    diagnosis = diagnose(base, near, PAIRS, config=config)
    found = json.loads(json.dumps(diagnosis.to_json(), allow_nan=False))["sft"]["sharpness_on_text"]
    assert found["loss_increases"][1] is None
    assert isinstance(found["loss_increases"][0], float)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"only": ("entropie",)}, "diagnosis.only must be one of"),
        ({"only": ()}, "must name a diagnostic"),
        ({"samples": 12, "group_size": 8}, "must be a multiple of group_size"),
        ({"k": 9, "samples": 8}, "diagnosis.k must lie in"),
        ({"perturbations": (0.0,)}, "diagnosis.perturbations must be > 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DiagnosisConfig(**settings)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mod, which does not ship, and held-out tasks of the RL environment."""
    directory = tmp_path_factory.mktemp("toy")
    ensure_rung("math", "sft_mod", directory / "mod")
    kwargs = {"operations_min": 4, "operations_max": 4, "operand_max": 50, "split": "heldout", "seed": 0}
    environment = make("rejuvenate/Arithmetic-v0", kwargs).unwrapped
    with (directory / "heldout.jsonl").open("w") as file:
        for index in range(48):
            environment.reset(options={"index": index})
            file.write(json.dumps({"messages": environment.demonstration()}) + "\n")
    return directory


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, ["diagnose", *map(str, arguments)], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    return result.stdout


def test_toy_ladder_on_the_command_line(toy: Path, tmp_path: Path) -> None:
    base, over = HERE / "math" / "base", HERE / "math" / "sft_over"
    options = ("--num-prompts", 32, "--max-new-tokens", 44, "--sharpness-pairs", 1, "--answer-marker", "#")
    ladder = ("--base", base, "--sft", toy / "mod", "--sft", over, "--calibration", toy / "heldout.jsonl")
    shown = run(*ladder, *options, "--out", tmp_path / "out.json")
    assert "graded by math-verify of what follows the last '#'; 48 of 48 prompts" in shown
    written = json.loads((tmp_path / "out.json").read_text())
    mod, worn = written["checkpoints"]
    assert [found["verdict"]["action"] for found in (mod, worn)] == ["start RL", "rejuvenate"]
    for words in ("mod: start RL: rollout entropy", "sft_over: rejuvenate: rollout entropy"):
        assert words in shown
    assert worn["sft"]["rollout_entropy"]["mean"] < 0.5 * mod["sft"]["rollout_entropy"]["mean"]
    assert worn["sft"]["passes"]["signal_share"] < 0.5 * mod["sft"]["passes"]["signal_share"]
    assert worn["sft"]["sharpness_on_text"]["eigenvalue"] > mod["sft"]["sharpness_on_text"]["eigenvalue"]
    assert worn["drift"]["all"] > 3 * mod["drift"]["all"] > 0.0
    assert set(worn["sft"]["seconds"]) >= {"sampling", "gradient", "sharpness"}
    assert set(worn["seconds"]) == {"drift", "changes", "rank"}
    assert written["settings"]["verdict"]["entropy_ratio"] == 0.5
    assert not list(tmp_path.glob(".*partial"))


def test_some_diagnostics_on_the_command_line(toy: Path, tmp_path: Path) -> None:
    base, over = HERE / "math" / "base", HERE / "math" / "sft_over"
    (tmp_path / "old.json").write_text("old")
    shown = run(
        "--base", base, "--sft", over, "--only", "drift, changes", "--out", tmp_path / "old.json", "--overwrite"
    )
    assert json.loads((tmp_path / "old.json").read_text())["checkpoints"]
    assert "changed in bf16" in shown
    assert "effective rank" not in shown
    assert "no verdict" in shown


def test_mistakes_are_one_paragraph(tmp_path: Path) -> None:
    base = HERE / "math" / "base"
    (tmp_path / "mine.json").write_text("precious")
    for arguments, words in (
        (("--only", "entropy,sharp"), "diagnosis.only must be one of"),
        (("--out", tmp_path), "--out must be a file"),
        (("--out", tmp_path / "mine.json"), "--out must not exist yet: nothing is overwritten"),
        (("--prompts", tmp_path / "none.jsonl"), "--prompts must be an existing JSONL file"),
    ):
        line = ["diagnose", "--base", base, "--sft", base, *arguments]
        result = CliRunner().invoke(cli.app, [str(part) for part in line])
        assert result.exit_code == 2
        assert words in result.stderr
    assert (tmp_path / "mine.json").read_text() == "precious"


def test_seeds_of_the_noise_do_not_touch_the_global_random_state(tmp_path: Path) -> None:
    base, near, _ = ladder(tmp_path)
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    diagnose(base, near, PAIRS, config=DiagnosisConfig(**SMALL))
    assert torch.equal(torch.random.get_rng_state(), state)
