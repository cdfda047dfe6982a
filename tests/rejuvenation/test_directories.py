from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation import transform
from rejuvenation.directories import check_output, weight_bytes
from tests.rejuvenation.tiny import moved, qwen2, save

Usage = namedtuple("Usage", "total used free")


def test_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    with pytest.raises(ConfigError, match="must not be a mount point"):
        check_output(tmp_path / "volume", [], 0)
    check_output(tmp_path / "volume" / "out", [], 0)


def test_place_where_writing_is_not_allowed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def access(path: Path, mode: int) -> bool:
        asked.append(Path(path))
        return not mode & os.W_OK

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(ConfigError, match=f"where you may write; {tmp_path} is none"):
        check_output(tmp_path / "new" / "newer" / "out", [], 0)
    assert asked == [tmp_path], "the nearest directory that exists"


def test_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file is none"):
        check_output(tmp_path / "file" / "out", [], 0)


@pytest.mark.parametrize("shards", [True, False])
def test_full_disk_is_refused_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: bool) -> None:
    base, sft = qwen2(0), moved(qwen2(0), 1)
    paths = save(base, tmp_path / "base"), save(sft, tmp_path / "sft", shards=shards)
    needed = sum(path.stat().st_size for path in (tmp_path / "sft").glob("*.safetensors"))
    assert weight_bytes(tmp_path / "sft", "sft") == needed
    config = RejuvenationConfig(steps=["fusion.linear"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed - 1))
    with pytest.raises(ConfigError, match=f"{needed:,} bytes are needed, {needed - 1:,} are free"):
        transform(*paths, tmp_path / "out" / "of" / "it", config, [], seed=0)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed))
    transform(*paths, tmp_path / "out" / "of" / "it", config, [], seed=0)
