from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from configs.rejuvenation import RejuvenationConfig
from rejuvenation import Report, transform
from rejuvenation.colours import ENTROPY, HEAT, contrast, ink, ramp
from rejuvenation.excerpts import MOST_EXCERPTS, WINDOW, Excerpt
from rejuvenation.heat_maps import drift_map, reset_map
from rejuvenation.page import FIGURES, PAGE_FILE, by_checkpoint, render
from rejuvenation.report import REPORT_FILE, EntropyReport
from rejuvenation.token_texts import LONGEST_TEXT
from rejuvenation.verdict import nats, percent, verdict
from tests.rejuvenation.test_calibration_pairs import save_tokenizer, write
from tests.rejuvenation.tiny import moved, qwen2, save

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "br", "wbr", "link", "img", "hr"}


class Outline(HTMLParser):
    """Reads a page: its tags, attributes and text; fails where elements do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repair of a tiny model with a tokenizer, from a calibration file."""
    path = tmp_path_factory.mktemp("repaired")
    base = qwen2(0)
    base_dir, sft_dir = save(base, path / "base"), save(moved(base, 1), path / "over_trained")
    for file in save_tokenizer(path / "tokenizer").iterdir():
        shutil.copy(file, sft_dir)
    data = write(path / "data.jsonl", *({"prompt": f"{n}+1=", "response": f"{n + 1}{n}"} for n in range(5)))
    config = RejuvenationConfig(rho=0.01, target_tokens=2, calibration=str(data))
    transform(base_dir, sft_dir, path / "out", config, seed=0)
    return path / "out"


@pytest.fixture
def report(repaired: Path) -> Report:
    return Report.load(repaired)


def measured(report: Report, at_targets: tuple[float, ...], on_responses: tuple[float, ...]) -> Report:
    """The report with other means: base, sft, fused, rejuvenated."""
    return replace(
        report, entropy_at_targets=EntropyReport(*at_targets), entropy_on_responses=EntropyReport(*on_responses)
    )


def test_transform_writes_a_page_that_begins_with_the_verdict(repaired: Path, report: Report) -> None:
    outline = Outline((repaired / PAGE_FILE).read_text(encoding="utf-8"))
    text = " ".join(outline.text.split())
    found = verdict(report)
    assert f"Repair report: over_trained, repaired with base {found.headline} {' '.join(found.sentences)}" in text
    assert f"{report.num_reset:,} of {report.num_neurons:,}" in text
    assert "<end>" in text, "tokens are shown as text"
    for section in (
        "How certain the model is, before and after",
        "How far SFT moved the weights",
        "Which neurons were reset",
        "The tokens that changed most",
        "Sharpness and gradient signal",
        "What it cost",
        "Terms",
    ):
        assert section in text
    assert f"{FIGURES}/entropy.png" in text


def test_numbers_on_the_page_are_those_of_the_report(repaired: Path, report: Report) -> None:
    titles = [attributes.get("title") or "" for _, attributes in Outline((repaired / PAGE_FILE).read_text()).tags]
    histograms = report.entropy_histograms
    assert histograms is not None
    tokens = sum(len(excerpt.texts) for excerpt in report.excerpts)
    assert sum("nats; target token" in title for title in titles) == sum(len(e.targets) for e in report.excerpts) == 10
    assert sum(title.startswith(("before ", "prompt")) for title in titles) == tokens
    shown = [int(m[1]) for title in titles if (m := re.fullmatch(r"SFT \(before\), .*: (\d+) of 10 tokens", title))]
    assert shown == histograms.at_targets["sft"]
    assert sum(shown) == report.num_target_tokens == 10
    share = report.counts["up"][1] / 48
    assert f"layer 1, up: {100 * share:.1f} % reset ({report.counts['up'][1]} of 48 neurons)" in titles
    drift = report.drift_by_module["up"][1]
    assert drift is not None
    assert f"layer 1, up: moved by {100 * drift:.1f} % of base's norm" in titles


def test_histograms_of_a_repair_add_up_to_its_tokens(report: Report) -> None:
    histograms = report.entropy_histograms
    assert histograms is not None
    names = {"base", "sft", "fused", "rejuvenated"}
    assert histograms.at_targets.keys() == histograms.on_responses.keys() == names
    for name in names:
        assert sum(histograms.at_targets[name]) == report.num_target_tokens == 10
        assert sum(histograms.on_responses[name]) == 15, "five answers of two digits and an end-of-turn token"
    assert {sum(sizes) for sizes in report.neurons.values()} == {3 * 32, 3 * 16, 3 * 48}
    assert sum(map(sum, report.neurons.values())) == report.num_neurons


def test_page_needs_nothing_outside_it(repaired: Path) -> None:
    page = (repaired / PAGE_FILE).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|@font-face", page)
    for tag, attributes in Outline(page).tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
        assert not attributes.keys() & {"src", "href", "srcset", "action"}
        assert not any(name.startswith("on") for name in attributes)


def test_texts_from_files_are_escaped(report: Report) -> None:
    evil = '<script>alert("1")</script>'
    numbers: list[float | None] = [0.1, 0.2]
    excerpt = Excerpt(0, 0.1, [evil, "\x00\n"], [0], dict.fromkeys(("base", "sft", "rejuvenated"), numbers))
    plain = {"checkpoints": {"base": evil, "sft": f'"{evil}'}, "notes": [evil], "settings": {evil: evil}}
    page = render(replace(report, excerpts=[excerpt], hashes={"base": {evil: evil}}, **plain))
    outline = Outline(page)
    assert "<script" not in page
    assert not [tag for tag, _ in outline.tags if tag == "script"]
    assert outline.text.count(evil) == 10  # title, heading twice, both lines, note, setting twice, hash twice
    assert "\x00" not in page
    assert "␀⏎" in outline.text


def test_fusion_alone_says_what_is_not_known_and_waits_for_no_matplotlib(tmp_path: Path) -> None:
    base_dir, sft_dir = save(qwen2(0), tmp_path / "base"), save(moved(qwen2(0), 1), tmp_path / "sft")
    code = (
        "import sys\nfrom configs.rejuvenation import RejuvenationConfig\nfrom rejuvenation import transform\n"
        f"transform({str(base_dir)!r}, {str(sft_dir)!r}, {str(tmp_path / 'out')!r}, "
        "RejuvenationConfig(steps=['fusion.linear']), seed=0)\n"
        "print('matplotlib' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
    text = " ".join(Outline((tmp_path / "out" / PAGE_FILE).read_text()).text.split())
    assert "Whether the model is less over-confident now is not known." in text
    assert "no calibration pairs were given" in text
    assert "None: all weights are fused, nothing else." in text
    assert not (tmp_path / "out" / FIGURES).exists()
    report = Report.load(tmp_path / "out")
    assert (report.entropy_histograms, report.excerpts, report.neurons) == (None, [], {})
    assert [len(layers) for layers in report.drift_by_module.values()] == [3] * 7


def test_model_without_the_seven_modules_and_without_a_tokenizer_gets_a_page(report: Report) -> None:
    page = render(replace(report, drift_by_module={}, neurons={}, checkpoints={}, excerpts=[], drift={"other": 0.1}))
    assert "none of the modules" in Outline(page).text


@pytest.mark.parametrize(
    ("at_targets", "on_responses", "tone", "headline"),
    [
        ((0.5, 0.1, 0.2, 0.3), (0.4, 0.1, 0.2, 0.2), "good", "gave back 50 % of the entropy"),
        ((0.5, 0.1, 0.2, 0.13), (0.4, 0.1, 0.2, 0.12), "caution", "gave back only 7.5 % of the entropy"),
        ((0.5, 0.1, 0.2, 0.6), (0.4, 0.1, 0.2, 0.3), "good", "gave back all the entropy"),
        ((0.1, 0.2, 0.2, 0.3), (0.4, 0.1, 0.2, 0.2), "good", "less certain again"),
        ((0.5, 0.1, 0.2, 0.1), (0.4, 0.1, 0.2, 0.2), "caution", "did not make the model less certain"),
        ((0.5, 0.1, 0.2, 0.6), (0.4, 0.1, 0.2, 0.5), "caution", "went too far"),
        ((0.5, 0.1, 0.2, 0.3), (0.4, 0.4, 0.4, 0.4), "caution", "may need no repair"),
    ],
)
def test_verdict_follows_the_entropies(
    report: Report, at_targets: tuple[float, ...], on_responses: tuple[float, ...], tone: str, headline: str
) -> None:
    found = verdict(measured(report, at_targets, on_responses))
    assert found.tone == tone
    assert headline in found.headline


def test_sentences_carry_the_numbers(report: Report) -> None:
    plain = replace(report, num_reset=444, num_neurons=5568, effective_ratio=444 / 5568)
    assert verdict(measured(plain, (0.35, 0.02, 0.05, 0.11), (0.3, 0.01, 0.02, 0.05))).sentences == [
        "Mean entropy at target tokens rose from 0.020 to 0.110 nats (base 0.350).",
        "8.0 % of the neurons (444 of 5,568) were reset; fusion alone gave 0.050 nats.",
    ]
    assert [nats(value) for value in (0.0, 0.0002, 0.0042, 1.25)] == ["0.000", "< 0.001", "0.004", "1.250"]
    assert [percent(share) for share in (0.0, 0.00042, 0.0764, 0.184, 1.0)] == [
        "0 %", "0.042 %", "7.6 %", "18 %", "100 %",
    ]  # fmt: skip


def test_maps_show_shares_by_layer_and_module(report: Report) -> None:
    counts = {"q": [1, 0], "up": [2, 4]}
    few = replace(
        report,
        counts=counts,
        neurons={"q": [10, 10], "up": [10, 10]},
        counts_per_layer=[3, 4],
        num_reset=7,
        num_neurons=40,
        effective_ratio=7 / 40,
        drift_by_module={"q": [0.5, None], "up": [0.25, 1.0]},
        drift={"q": 0.4, "up": 0.6, "all": 0.5},
    )
    reset, drift = reset_map(few), drift_map(few)
    assert reset is not None
    assert drift is not None
    assert reset.columns == ["q", "up", "all"]
    texts = {label: [cell.text for cell in cells] for label, cells in reset.rows}
    assert texts == {"0": ["10.0", "20.0", "15.0"], "1": ["0.0", "40.0", "20.0"], "all": ["5.0", "30.0", "17.5"]}
    assert [[cell.step for cell in cells] for _, cells in reset.rows[:2]] == [[2, 4, None], [0, 7, None]]
    assert drift.columns == ["q", "up"]
    assert [[cell.text for cell in cells] for _, cells in drift.rows] == [
        ["50.0", "25.0"],
        ["", "100.0"],
        ["40.0", "60.0"],
    ]
    assert reset_map(replace(few, num_reset=0)) is None


def test_sharpness_and_gradient_signal_are_shown_where_they_were_measured(report: Report) -> None:
    values = {"sharpness_sft": 310.25, "sharpness_rejuvenated": 45.5, "probe_batches": 4.0}
    assert by_checkpoint(values) == [("sharpness", {"sft": 310.25, "rejuvenated": 45.5}), ("probe batches", {"": 4.0})]
    text = " ".join(Outline(render(replace(report, plasticity=values))).text.split())
    assert "310.2" in text
    assert "45.5" in text
    assert "probe batches: 4" in text
    assert "Not measured in this repair" not in text


def test_text_can_be_read_on_every_shade() -> None:
    for modes in (HEAT, ENTROPY):
        for stops in modes.values():
            shades = ramp(stops)
            assert (shades[0], shades[-1]) == (stops[0], stops[-1])
            assert min(contrast(ink(shade), shade) for shade in shades) >= 4.5
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert ramp(("#000000", "#ffffff"), 3) == ["#000000", "#808080", "#ffffff"]


def test_report_json_of_the_largest_excerpts_stays_small_and_loads(report: Report, tmp_path: Path) -> None:
    widest = "\U0001f600" * LONGEST_TEXT  # twelve bytes a character in JSON
    numbers: list[float | None] = [10.1234] * WINDOW
    names = ("base", "sft", "rejuvenated")
    excerpt = Excerpt(1, 0.123456789012345, [widest] * WINDOW, list(range(WINDOW)), dict.fromkeys(names, numbers))
    layers: list[float | None] = [0.12345678901234567] * 128
    shards = {f"model-{n:05d}-of-00500.safetensors": "0123456789abcdef" for n in range(500)}
    largest = replace(
        report,
        excerpts=[excerpt] * MOST_EXCERPTS,
        drift_by_module=dict.fromkeys(report.drift_by_module, layers),
        counts={kind: [12288] * 128 for kind in report.counts},
        neurons={kind: [12288] * 128 for kind in report.counts},
        counts_per_layer=[50000] * 128,
        hashes=dict.fromkeys(("base", "sft", "output"), shards),
    )
    largest.save(tmp_path)
    assert 256_000 < (tmp_path / REPORT_FILE).stat().st_size < 512_000
    assert Report.load(tmp_path) == largest


def test_page_comes_with_an_installed_wheel(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("configs", "rejuvenation"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    with zipfile.ZipFile(tmp_path / result.stdout.split()[-1]) as wheel:
        assert "rejuvenation/templates/report.html.jinja" in wheel.namelist()


def test_pages_of_equal_repairs_differ_in_times_only(report: Report) -> None:
    slower = replace(report, seconds={stage: 2 * seconds + 1 for stage, seconds in report.seconds.items()})
    pages = [render(each, ["entropy.png"]).splitlines() for each in (report, slower)]
    differing = [line for line, other in zip(*pages, strict=True) if line != other]
    assert len(differing) >= 3
    assert all(re.search(r"Time</dt>|\d s</", line) for line in differing)
