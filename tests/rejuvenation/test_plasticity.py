from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from examples.toy.ladder import LADDERS, demonstrations
from orchestrator.rejuvenating import turn_pairs
from policies.rendering import load_renderer
from rejuvenation import Report, transform
from rejuvenation.diagnostics import ladder_model
from rejuvenation.page import PAGE_FILE

BASE, SFT = Path("examples/toy/math/base"), Path("examples/toy/math/sft_over")


def toy_pairs() -> list:
    renderer = load_renderer(str(SFT))
    return [
        pair
        for messages in demonstrations(LADDERS["math"])[:8]
        for pair in turn_pairs(*renderer.training_example(messages))
    ]


def test_report_shows_sharpness_and_signal_of_every_checkpoint(tmp_path: Path) -> None:
    config = RejuvenationConfig(rho=0.002, plasticity=True)
    report = transform(BASE, SFT, tmp_path / "out", config, toy_pairs(), seed=0)
    found = report.plasticity
    assert found is not None
    names = {name.rpartition("_")[0] for name in found}
    assert {"largest Hessian eigenvalue on responses", "share of groups with a signal", "pass@8"} <= names
    for name in names:
        assert {f"{name}_{which}" for which in ("base", "sft", "fused", "rejuvenated")} <= found.keys(), name
    flat, sharp = "largest Hessian eigenvalue on responses_sft", "largest Hessian eigenvalue on responses_rejuvenated"
    assert found[flat] < 0.1 * found[sharp], "an over-trained model looks flat on its own training data"
    assert found["share of groups with a signal_sft"] <= 0.1, "Over has learned these very prompts by heart"
    assert Report.load(tmp_path / "out") == report
    page = (tmp_path / "out" / PAGE_FILE).read_text()
    assert "largest Hessian eigenvalue on responses" in page
    assert "Not measured in this repair" not in page
    assert report.seconds["plasticity"] > 0.0


def test_what_does_not_fit_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder_model, "available_bytes", lambda: 5 * 4 * 723_072)
    config = RejuvenationConfig(rho=0.002, plasticity=True)
    with pytest.raises(ConfigError, match="sharpness takes"):
        transform(BASE, SFT, tmp_path / "out", config, toy_pairs(), seed=0)
    assert not (tmp_path / "out").exists()
