from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import orchestrator.cli
from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation import cli, load_pairs, needs, pipeline, transform
from tests.rejuvenation.test_calibration_pairs import tokenizer_dir, write
from tests.rejuvenation.tiny import moved, qwen2, save, token_pairs

__all__ = ["tokenizer_dir"]  # the fixture


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "rejuvenation", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


def test_help_waits_for_nothing_heavy() -> None:
    code = (
        "import sys, rejuvenation.cli; print([m for m in ('torch', 'transformers', 'safetensors') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_transform_writes_a_checkpoint_and_says_what_it_did(tmp_path: Path, tokenizer_dir: Path) -> None:
    base = qwen2(0)
    base_dir, sft_dir = save(base, tmp_path / "base"), save(moved(base, 1), tmp_path / "sft")
    for path in tokenizer_dir.iterdir():
        (sft_dir / path.name).write_bytes(path.read_bytes())
    data = write(tmp_path / "data.jsonl", *({"prompt": f"{n}+1=", "response": f"{n + 1}"} for n in range(5)))
    arguments = ("--base", base_dir, "--sft", sft_dir, "--out", tmp_path / "out")
    line = ["transform", *map(str, arguments), "--calibration", str(data), "--alpha", "0.4"]
    result = CliRunner().invoke(cli.app, line, catch_exceptions=False)
    assert result.exit_code == 0
    assert "mean entropy on target tokens" in result.stdout
    assert result.stdout.splitlines()[-1] == f"for people: {tmp_path / 'out' / 'report.html'}"
    assert (tmp_path / "out" / "report.html").is_file()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["alpha"], report["num_pairs"]) == (0.4, 5)
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert (tmp_path / "out" / "chat_template.jinja").is_file()


@pytest.mark.parametrize("app", [cli.app, orchestrator.cli.app], ids=["rejuvenation", "rejuvenate"])
def test_dry_run_says_what_is_needed_and_writes_nothing(tmp_path: Path, app: typer.Typer, tokenizer_dir: Path) -> None:
    base_dir, sft_dir = save(qwen2(0), tmp_path / "base"), save(qwen2(1), tmp_path / "sft")
    for path in tokenizer_dir.iterdir():
        shutil.copy(path, sft_dir)
    data = write(tmp_path / "data.jsonl", {"prompt": "1+1=", "response": "2"})
    before = sorted(tmp_path.rglob("*"))
    places = ("--base", base_dir, "--sft", sft_dir, "--out", tmp_path / "out", "--calibration", data)
    line = ["transform", *map(str, places), "--scoring-dtype", "bfloat16", "--dry-run"]
    result = CliRunner().invoke(app, line, catch_exceptions=False)
    assert result.exit_code == 0
    size = (sft_dir / "model.safetensors").stat().st_size
    weights = sum(parameter.numel() for parameter in qwen2(0).parameters()) * 2
    for words in (
        "neurons  720",
        f"reads    {2 * size / 1e3:.3g} kB",
        f"writes   {size / 1e3:.3g} kB",
        f"one model on cpu to score pairs: {weights / 1e3:.3g} kB in bfloat16",
        "pairs    1 in",
        "nothing was written",
    ):
        assert words in result.stdout
    data.write_text('{"prompt": "1+1="}\n')
    broken = CliRunner().invoke(app, line, catch_exceptions=False)
    assert broken.exit_code == 2, "a dry run reads the calibration lines too"
    assert "line 1" in broken.output
    assert sorted(tmp_path.rglob("*")) == before


def test_model_that_cannot_fit_is_refused_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, sft = save(qwen2(0), tmp_path / "base"), save(qwen2(1), tmp_path / "sft")
    monkeypatch.setattr(needs, "available_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match=r"room for one model in float32: .* kB; 1 kB are free"):
        transform(base, sft, tmp_path / "out", RejuvenationConfig(), token_pairs(2), seed=0)
    transform(base, sft, tmp_path / "out", RejuvenationConfig(steps=["fusion.linear"]), seed=0)


def test_library_loads_the_calibration_file_that_its_config_names(tmp_path: Path, tokenizer_dir: Path) -> None:
    base = qwen2(0)
    base_dir, sft_dir = save(base, tmp_path / "base"), save(moved(base, 1), tmp_path / "sft")
    for path in tokenizer_dir.iterdir():
        (sft_dir / path.name).write_bytes(path.read_bytes())
    data = write(tmp_path / "data.jsonl", *({"prompt": f"{n}+1=", "response": f"{n + 1}"} for n in range(5)))
    config = RejuvenationConfig(calibration=str(data))
    loaded = transform(base_dir, sft_dir, tmp_path / "loaded", config, seed=0)
    given = transform(base_dir, sft_dir, tmp_path / "given", config, load_pairs(data, sft_dir), seed=0)
    assert {**loaded.to_json(), "seconds": 0} == {**given.to_json(), "seconds": 0}
    assert loaded.num_pairs == 5
    one = transform(base_dir, sft_dir, tmp_path / "one", config, load_pairs(data, sft_dir)[:1], seed=0)
    assert one.num_pairs == 1, "pairs that are given come before the file"


def test_what_the_machine_refuses_is_one_paragraph_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "out")

    base_dir = save(qwen2(0), tmp_path / "base")
    sft_dir = save(qwen2(1), tmp_path / "sft")
    monkeypatch.setattr(pipeline, "transform", full)
    places = ("--base", base_dir, "--sft", sft_dir, "--out", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["rejuvenation", "transform", *map(str, places), "--steps", "fusion.linear"])
    capsys.readouterr()  # what saving said
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "rejuvenate: [Errno 28] No space left on device: 'out'\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["--calibration", "--steps fusion.linear"]),
        (("--alpha", "1.5"), ["rejuvenation.alpha", "[0.0, 1.0]", "1.5"]),
        (("--steps", "fusion.linear"), ["base must be a checkpoint directory", "nowhere"]),
        (("--steps", "fusion.liner"), ["rejuvenation.steps", "Did you mean fusion.linear?"]),
        (("--steps", "reset.drift,fusion.linear"), ["rejuvenation.steps", "fusions first", "as the last"]),
        (("--fusion", "densty=0.3"), ["rejuvenation.fusion.densty", "Did you mean rejuvenation.fusion.density?"]),
        (("--fusion", "density=2"), ["rejuvenation.fusion.density", "[0.0, 1.0]", "2.0"]),
        (("--fusion", "density=much"), ["rejuvenation.fusion.density", "float", "much"]),
        (("--fusion", "group_alpha={hands: 1}"), ["rejuvenation.fusion.group_alpha", "hands", "norms"]),
        (("--auto", "alphas=3"), ["rejuvenation.auto.alphas must be a list, got 3.", "Write `alphas: [NUMBER, ...]`"]),
        (("--auto", "alphas={a: 1}"), ["rejuvenation.auto.alphas must be a list, got {'a': 1}."]),
        (("--fusion", "group_alpha=[1]"), ["rejuvenation.fusion.group_alpha must be a mapping, got [1]."]),
        (("--calibration", "nowhere.jsonl"), ["calibration must be an existing JSONL file", "nowhere.jsonl"]),
    ],
)
def test_mistakes_are_one_paragraph_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    result = command("transform", "--base", "nowhere", "--sft", "nowhere", "--out", tmp_path / "out", *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
