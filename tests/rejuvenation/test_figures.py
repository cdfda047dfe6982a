from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from configs.rejuvenation import RejuvenationConfig
from rejuvenation import Report, transform
from rejuvenation.charts import axis_labels, panels
from rejuvenation.figures import entropy_figure, heat_figure, write_figures
from rejuvenation.heat_maps import HeatMap, reset_map
from rejuvenation.page import FIGURES
from tests.rejuvenation.tiny import moved, qwen2, save, token_pairs


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repaired")
    base = qwen2(0)
    base_dir, sft_dir = save(base, path / "base"), save(moved(base, 1), path / "sft")
    config = RejuvenationConfig(rho=0.01, target_tokens=3)
    transform(base_dir, sft_dir, path / "out", config, token_pairs(4), seed=0)
    return path / "out"


def test_figures_lie_beside_the_page_as_png(repaired: Path) -> None:
    assert sorted(path.name for path in (repaired / FIGURES).iterdir()) == ["drift.png", "entropy.png", "reset.png"]
    for path in (repaired / FIGURES).iterdir():
        pixels = image.imread(path)
        assert pixels.shape[0] > 250
        assert pixels.shape[1] > 700
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20, "not empty"


def test_equal_reports_give_equal_files(repaired: Path, tmp_path: Path) -> None:
    names = write_figures(Report.load(repaired), tmp_path)
    assert names == ["entropy.png", "drift.png", "reset.png"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (repaired / FIGURES / name).read_bytes()


def test_bars_are_the_shares_of_tokens(repaired: Path) -> None:
    report = Report.load(repaired)
    histograms = report.entropy_histograms
    assert histograms is not None
    figure = entropy_figure(panels(report), axis_labels(histograms))
    by_row = {text: axis for axis in figure.axes for text in (axis.texts[0].get_text().split(":")[0],)}
    heights = [bar.get_height() for bar in by_row["SFT (before)"].patches]
    total = sum(histograms.on_responses["sft"])
    assert heights == pytest.approx([100 * count / total for count in histograms.on_responses["sft"]])
    assert sum(heights) == pytest.approx(100)
    assert axis_labels(histograms) == ["0", "0.001", "", "", "0.01", "", "", "0.1", "", "", "1", "", ""]


def test_map_of_many_layers_has_no_numbers_and_a_bounded_height(repaired: Path) -> None:
    few = reset_map(Report.load(repaired))
    assert few is not None
    figure = heat_figure(few, "reset", "%")
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == [cell.text for _, cells in few.rows[:3] for cell in cells[:7]]
    many = HeatMap(few.columns, few.rows, few.peak, few.values * 40)
    assert many.dense
    figure = heat_figure(many, "reset", "%")
    assert not figure.axes[0].texts
    assert figure.get_size_inches()[1] <= 11
