from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation import Report, repair, transform
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.neurons import NeuronTable
from tests.rejuvenation.tiny import moved, qwen2, save

FUSION = RejuvenationConfig(steps=["fusion.linear"])


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    base = qwen2(0)
    return save(base, tmp_path / "in" / "base"), save(moved(base, 1), tmp_path / "in" / "sft", shards=True)


def everything(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_layout_and_companions_come_from_the_sft_checkpoint(tmp_path: Path, inputs: tuple[Path, Path]) -> None:
    base, sft = inputs
    (sft / "chat_template.jinja").write_text("{{ messages }}")
    (sft / "tokenizer.json").write_text("{}")
    (sft / "training_args.bin").write_bytes(b"not for the output")
    (base / "tokenizer.json").write_text('{"of": "base"}')
    before = everything(tmp_path / "in")
    report = transform(base, sft, tmp_path / "out", FUSION, [], seed=0)
    assert everything(tmp_path / "in") == before
    out = everything(tmp_path / "out")
    assert set(out) == {*everything(sft), "report.json", "report.html"} - {"training_args.bin"}
    for name in ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert out[name] == (sft / name).read_bytes()
    assert CheckpointReader(tmp_path / "out").entries == CheckpointReader(sft).entries
    assert report.hashes["output"] == {
        name: xxhash.xxh3_64_hexdigest(content)
        for name, content in out.items()
        if "safetensors" in name and "index" not in name
    }
    assert set(report.hashes["sft"]) == set(report.hashes["output"])
    assert Report.load(tmp_path / "out") == report
    assert os.stat(tmp_path / "out").st_mode & 0o700 == 0o700


@pytest.mark.parametrize("calls", [0, 7])
def test_failure_while_writing_leaves_nothing(
    tmp_path: Path, inputs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    rows = repair.Repair.rows
    seen: list[str] = []

    def break_down(self: repair.Repair, name: str, start: int, stop: int, **options: Any) -> torch.Tensor:
        if len(seen) == calls:
            raise OSError("No space left on device")
        seen.append(name)
        return rows(self, name, start, stop, **options)

    with monkeypatch.context() as patched:
        patched.setattr(repair.Repair, "rows", break_down)
        with pytest.raises(OSError, match="No space left"):
            transform(*inputs, tmp_path / "out", FUSION, [], seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    transform(*inputs, tmp_path / "out", FUSION, [], seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_output_is_not_there_before_all_of_it_is_written(
    tmp_path: Path, inputs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_report = Report.save

    def look(self: Report, directory: Path) -> None:
        assert not (tmp_path / "out").exists()
        assert directory.parent == tmp_path
        save_report(self, directory)

    monkeypatch.setattr(Report, "save", look)
    transform(*inputs, tmp_path / "out", FUSION, [], seed=0)
    assert (tmp_path / "out" / "report.json").is_file()


def test_existing_output_is_refused(tmp_path: Path, inputs: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(ConfigError, match="empty directory"):
        transform(*inputs, out, FUSION, [], seed=0)
    assert everything(out) == {"precious": b"x"}
    (out / "precious").unlink()
    transform(*inputs, out, FUSION, [], seed=0)  # an empty directory is taken
    assert (out / "model.safetensors.index.json").is_file()


@pytest.mark.parametrize("inner", [".", "new", "a/b"])
def test_input_directories_are_never_written_into(inputs: tuple[Path, Path], inner: str) -> None:
    for directory in inputs:
        before = everything(directory)
        with pytest.raises(ConfigError, match="input directory"):
            transform(*inputs, directory / inner, FUSION, [], seed=0)
        assert everything(directory) == before


def test_directory_without_checkpoint_is_named_by_its_field(tmp_path: Path, inputs: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"^base must be a checkpoint directory"):
        transform(tmp_path / "in", inputs[1], tmp_path / "out", FUSION, [], seed=0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"^sft must hold model\.safetensors"):
        transform(inputs[0], tmp_path / "empty", tmp_path / "out", FUSION, [], seed=0)


def test_damaged_checkpoints_are_named(inputs: tuple[Path, Path]) -> None:
    base, sft = inputs
    index = json.loads((sft / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = sorted(set(index["weight_map"].values()))[0]
    wrong = {**index, "weight_map": {**index["weight_map"], "ghost.weight": "model-00001-of-99999.safetensors"}}
    (sft / "model.safetensors.index.json").write_text(json.dumps(wrong))
    with pytest.raises(ConfigError, match="model-00001-of-99999"):
        CheckpointReader(sft, "sft")
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:40])
    with pytest.raises(ValueError, match="cut off"):
        CheckpointReader(base)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_broken_json_is_named_by_its_file(inputs: tuple[Path, Path], file: str, content: str) -> None:
    path = inputs[1] / file
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"^sft must hold a JSON object in {path}"):
        CheckpointReader(inputs[1], "sft")


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_index_without_weight_map_is_named(inputs: tuple[Path, Path], content: object) -> None:
    path = inputs[1] / "model.safetensors.index.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"^sft must list the file of every tensor under weight_map in {path}"):
        CheckpointReader(inputs[1], "sft")


def test_broken_header_is_named_by_its_file(inputs: tuple[Path, Path]) -> None:
    path = inputs[0] / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8] = ord("[")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is no safetensors file: its header is broken"):
        CheckpointReader(inputs[0])


def test_layers_that_config_and_tensors_disagree_on_are_named(inputs: tuple[Path, Path]) -> None:
    path = inputs[1] / "config.json"
    config = json.loads(path.read_text())
    for layers, message in [
        (4, r"^sft must hold tensor model\.layers\.3\.self_attn\.q_proj\.weight"),
        (None, f"^sft must state num_hidden_layers >= 1 in {path}"),
    ]:
        path.write_text(json.dumps({**config, "num_hidden_layers": layers}))
        with pytest.raises(ConfigError, match=message):
            NeuronTable.of(CheckpointReader(inputs[1], "sft"))


@pytest.mark.parametrize("change", [-2000, 8])
def test_weight_file_of_another_length_is_refused_by_name(tmp_path: Path, change: int) -> None:
    directory = save(qwen2(0), tmp_path / "base")
    file = directory / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:change] if change < 0 else content + b"x" * change)
    with pytest.raises(ValueError, match=r"model\.safetensors holds \d+ bytes where its header asks for"):
        CheckpointReader(directory)
