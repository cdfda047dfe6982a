"""A model spread by accelerate: on one machine, over memory and disk (GPUs are not needed for that)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation import spread, transform
from rejuvenation.cli import app
from rejuvenation.scored_model import load_model
from tests.rejuvenation.tiny import KINDS_OF_MODEL, moved, save, tiny, token_pairs

IDS = [f"{name}-{'tied' if tied else 'untied'}" for name, tied in KINDS_OF_MODEL]
ON_DISK = {"device_map": "auto", "max_memory": {"cpu": "0.06MiB"}}
"""Room for embeddings and a part of the layers."""


@pytest.mark.parametrize(("architecture", "tied"), KINDS_OF_MODEL, ids=IDS)
@pytest.mark.parametrize("criterion", ["attribution", "entropy_attribution", "delta_attribution"])
def test_a_spread_model_gives_the_same_checkpoint(
    tmp_path: Path, architecture: str, tied: bool, criterion: str
) -> None:
    base = tiny(architecture, 0, tied=tied)
    places = save(base, tmp_path / "base"), save(moved(base, 1), tmp_path / "sft")
    steps = ["fusion.linear", f"reset.{criterion}"]
    pairs, reports = token_pairs(3), []
    for name, where in (("one", {}), ("spread", ON_DISK)):
        config = RejuvenationConfig(steps=steps, rho=0.02, target_tokens=3, **where)
        reports.append(transform(*places, tmp_path / name, config, pairs, seed=0))
    one, other = reports
    assert 0 < one.num_reset < one.num_neurons
    assert other.hashes == one.hashes, "the same neurons were reset"
    for found, expected in (
        (other.entropy_at_targets, one.entropy_at_targets),
        (other.entropy_on_responses, one.entropy_on_responses),
    ):
        for checkpoint in ("base", "sft", "fused", "rejuvenated"):
            assert getattr(found, checkpoint) == pytest.approx(getattr(expected, checkpoint), rel=1e-5)
    assert one.entropy_at_targets.base != pytest.approx(one.entropy_at_targets.sft, rel=1e-3), "each was filled anew"


def test_layers_on_disk_keep_no_weights(tmp_path: Path) -> None:
    directory = save(tiny("qwen2", 0), tmp_path / "model")
    model = load_model(directory, RejuvenationConfig(**ON_DISK))
    assert spread.is_spread(model)
    weight = model.model.layers[2].mlp.down_proj.weight
    assert weight.device.type == "meta"
    with spread.at_hand(model.model.layers[2]):
        found = model.model.layers[2].mlp.down_proj.weight
        assert torch.equal(found, tiny("qwen2", 0).model.layers[2].mlp.down_proj.weight)
    assert model.model.layers[2].mlp.down_proj.weight.device.type == "meta"
    assert not spread.is_spread(load_model(directory, RejuvenationConfig()))


def test_prompts_are_answered_by_a_spread_model(tmp_path: Path) -> None:
    base = tiny("qwen2", 0)
    places = save(base, tmp_path / "base"), save(moved(base, 1), tmp_path / "sft")
    found = []
    for name, where in (("one", {}), ("spread", ON_DISK)):
        config = RejuvenationConfig(rho=0.02, calibration_pairs=2, target_tokens=2, **where)
        found.append(transform(*places, tmp_path / name, config, prompts=[[1, 2, 3], [4, 5]], seed=0))
    assert found[0].hashes == found[1].hashes
    assert found[1].notes == ["calibration pairs: greedy answers of the SFT checkpoint to 2 of 2 prompts"]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"device_map": "everywhere"}, "auto, balanced, sequential"),
        ({"device_map": "auto", "device": "cpu"}, "rejuvenation.device = cpu"),
        ({"device_map": "auto", "plasticity": True}, "with rejuvenation.plasticity"),
        ({"max_memory": {"cpu": "1GiB"}}, "without device_map"),
        ({"device_map": "auto", "max_memory": {"gpu": "1GiB"}}, "number of a GPU"),
        ({"device_map": "auto", "max_memory": {"0": "much"}}, "to a size"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        RejuvenationConfig(**settings)


def test_without_accelerate_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = save(tiny("qwen2", 0), tmp_path / "model")
    monkeypatch.setattr(spread, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package accelerate"):
        load_model(directory, RejuvenationConfig(device_map="auto"))


def test_command_says_where_the_model_goes(tmp_path: Path) -> None:
    base = tiny("qwen2", 0)
    places = save(base, tmp_path / "base"), save(moved(base, 1), tmp_path / "sft")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    arguments = ["transform", "--base", places[0], "--sft", places[1], "--out", tmp_path / "out"]
    arguments += [
        "--prompts",
        tmp_path / "pairs.jsonl",
        "--device-map",
        "auto",
        "--max-memory",
        "cpu=1GiB",
        "--dry-run",
    ]
    found = CliRunner().invoke(app, list(map(str, arguments)))
    assert found.exit_code == 0, found.output
    assert "main memory and, as far as they are full, disk (device_map auto)" in " ".join(found.output.split())
