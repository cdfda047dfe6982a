import json
import math

import pytest
from rich.console import Console

from configs.errors import ConfigError
from orchestrator.compare import LEGEND, Arm, area, change, per_task, plot, tables
from orchestrator.evaluation import Evaluation, SetResult, write


def result(greedy, correct, name="heldout", entropy=0.5):
    return SetResult(name, "id", 2, greedy, correct, samples=4, entropy=entropy, truncated=0.0)


def evaluations():
    return [
        Evaluation(0, [result([1.0, 0.0, 0.0, 0.0], [4, 0, 1, 2], entropy=0.2)]),
        Evaluation(20, [result([1.0, 0.0, 1.0, 0.0], [4, 0, 1, 2], entropy=0.4)]),
        Evaluation(30, [result([1.0, 1.0, 1.0, 0.0], [4, 2, 2, 0], entropy=0.3)]),
    ]


def test_values_per_task():
    last = evaluations()[-1].sets[0]
    assert per_task(last, "greedy") == [1.0, 1.0, 1.0, 0.0]
    assert per_task(last, "pass@k") == pytest.approx([1.0, 5 / 6, 5 / 6, 0.0])
    assert per_task(last, "signal") == [0.0, 1.0, 1.0, 0.0]


def test_change_with_paired_standard_error_and_area():
    c = change(evaluations(), "heldout", "greedy")
    assert (c.before, c.after, c.gain) == (0.25, 0.75, 0.5)
    assert c.gain_se == pytest.approx(math.sqrt(1 / 3 / 4)), "gains 0, 1, 1, 0"
    # trapezoids: 20 steps at (0.25 + 0.5) / 2, 10 at (0.5 + 0.75) / 2
    assert c.area == pytest.approx((20 * 0.375 + 10 * 0.625) / 30)


def test_entropy_changes_without_a_standard_error():
    c = change(evaluations(), "heldout", "entropy")
    assert (c.before, c.after, c.gain) == pytest.approx((0.2, 0.3, 0.1))
    assert c.gain_se == 0.0


def test_area_of_a_constant_is_its_height_and_of_one_point_its_value():
    assert area(evaluations(), [0.7, 0.7, 0.7]) == pytest.approx(0.7)
    assert area(evaluations()[:1], [0.4]) == 0.4


def test_tables_fit_80_columns():
    arms = [Arm("rejuvenated-with-a-very-long-name-indeed", evaluations(), []), Arm("over", evaluations(), [])]
    console = Console(width=80, force_terminal=False, highlight=False)
    with console.capture() as captured:
        for part in [*tables(arms, "tool use (look-ups in a hidden map)"), LEGEND]:
            console.print(part)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for expected in ("0.250 ± 0.250", "0.750 ± 0.250", "+0.500 ± 0.289", "pass@2", "+0.100"):
        assert expected in text, text
    assert "…" not in text, "nothing is cut"


def test_runs_on_other_task_sets_are_not_compared():
    other = [Evaluation(0, [result([1.0], [1], name="maps")])]
    with pytest.raises(ConfigError, match=r"same task sets as a \(heldout: 4 tasks\), got 'b \(maps: 1 tasks\)'"):
        tables([Arm("a", evaluations(), []), Arm("b", other, [])])


def test_directory_without_an_evaluation_is_no_arm(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="at least one evaluation"):
            Arm.read(path)


def test_arm_reads_evaluations_and_metrics(tmp_path):
    (tmp_path / "evaluations").mkdir()
    for evaluation in evaluations():
        write(evaluation, tmp_path)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "rollout_entropy": 0.3}) + "\n")
    arm = Arm.read(tmp_path)
    assert (arm.name, arm.evaluations) == (tmp_path.name, evaluations())
    assert arm.metrics == [{"step": 1, "rollout_entropy": 0.3}]


def test_plot_is_written_with_and_without_task_sets(tmp_path):
    metrics = [{"step": s, "rollout_entropy": 0.3} for s in (1, 2)] + [{"step": 3}]
    plot([Arm("a", evaluations(), metrics)], tmp_path / "new" / "curves.png", "title")
    plot([Arm("a", [Evaluation(0, [])], metrics)], tmp_path / "none.png")
    for file in (tmp_path / "new" / "curves.png", tmp_path / "none.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
