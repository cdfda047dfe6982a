import json
from dataclasses import replace

import pytest

from configs.errors import ConfigError
from orchestrator.compare import Arm, area, change, check_same_sets, free_name, has_curves, plot, read_arms
from orchestrator.evaluation import Evaluation, SetResult, evaluation_file, write
from orchestrator.intervals import paired, proportion


def result(greedy, correct, name="heldout", entropy=0.5):
    return SetResult(name, "id", 2, greedy, correct, samples=4, entropy=entropy, truncated=0.0)


def evaluations():
    return [
        Evaluation(0, [result([1.0, 0.0, 0.0, 0.0], [4, 0, 1, 2], entropy=0.2)]),
        Evaluation(20, [result([1.0, 0.0, 1.0, 0.0], [4, 0, 1, 2], entropy=0.4)]),
        Evaluation(30, [result([1.0, 1.0, 1.0, 0.0], [4, 2, 2, 0], entropy=0.3)]),
    ]


def arm(name="a", found=None):
    return Arm(name, evaluations() if found is None else found, [])


def test_change_with_intervals_and_area():
    c = change(arm().on("heldout"), "greedy")
    assert (c.before.mean, c.after.mean, c.gain.mean) == (0.25, 0.75, 0.5)
    assert c.before == proportion([1.0, 0.0, 0.0, 0.0])
    assert c.gain == paired([0.0, 1.0, 1.0, 0.0])
    # trapezoids: 20 steps at (0.25 + 0.5) / 2, 10 at (0.5 + 0.75) / 2
    assert c.area == pytest.approx((20 * 0.375 + 10 * 0.625) / 30)


def test_entropy_changes_without_an_interval():
    c = change(arm().on("heldout"), "entropy")
    assert (c.before.mean, c.after.mean, c.gain.mean) == pytest.approx((0.2, 0.3, 0.1))
    assert c.gain.low == c.gain.high == c.gain.mean


def test_area_of_a_constant_is_its_height_and_of_one_point_its_value():
    assert area([0, 20, 30], [0.7, 0.7, 0.7]) == pytest.approx(0.7)
    assert area([0], [0.4]) == 0.4


def test_evaluations_in_which_a_set_was_not_measured_are_left_out():
    found = evaluations()
    broken = Evaluation(20, [result([], [])])
    c = change(arm(found=[found[0], broken, found[2]]).on("heldout"), "greedy")
    assert c.area == pytest.approx(0.5), "one trapezoid from 0.25 to 0.75"
    assert arm(found=[broken]).on("heldout") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "maps"}, r"the same task sets as a \(heldout\), got 'b \(maps\)'"),
        ({"kind": "ood"}, r"must have the kind of a on the set heldout \('id'\), got \"b: 'ood'\""),
        ({"k": 1}, r"must have the k of a on the set heldout \(2\), got 'b: 1'"),
        ({"samples": 8}, r"must have the samples of a"),
        ({"greedy": [1.0]}, r"must have the tasks of a on the set heldout \(4\), got 'b: 1'"),
        ({"correct": [1]}, r"must have the sampled_tasks of a"),
    ],
)
def test_runs_that_were_evaluated_otherwise_are_not_compared(changes, message):
    other = [replace(e, sets=[replace(e.sets[0], **changes)]) for e in evaluations()]
    with pytest.raises(ConfigError, match=message):
        check_same_sets([arm(), arm("b", other)])


def evaluated(name, kwargs=None, wrappers=(), **setting):
    """An arm whose file says how it was evaluated."""
    environment = {"id": "E", "kwargs": kwargs or {}, "wrappers": list(wrappers)}
    known = {"temperature": 1.0, "max_tokens": 8, "environment": environment, **setting}
    return arm(name, [Evaluation(0, [replace(evaluations()[0].sets[0], setting=known)])])


def test_settings_are_compared_where_both_are_known():
    check_same_sets([evaluated("a"), evaluated("b"), arm("old")])
    for other, trait in (
        (evaluated("b", temperature=0.5), "temperature"),
        (evaluated("b", environment={"id": "F"}), "environment"),
    ):
        with pytest.raises(ConfigError, match=f"must have the {trait} of a on the set heldout"):
            check_same_sets([evaluated("a"), other])
    for older in ({"id": "E"}, {}):
        check_same_sets([evaluated("a", {"split": "heldout"}), evaluated("b", environment=older)])


@pytest.mark.parametrize(
    ("kwargs", "wrappers", "message"),
    [
        ({"split": "ood", "seed": 1}, [], r"kwargs\.split of a on the set heldout \('heldout'\), got \"b: 'ood'\""),
        ({"split": "heldout", "seed": 2}, [], r"kwargs\.seed of a on the set heldout \(1\), got 'b: 2'"),
        ({"split": "heldout"}, [], r"kwargs\.seed of a on the set heldout \(1\), got \"b: 'not given'\""),
        ({"split": "heldout", "seed": 1}, [{"id": "m:W", "kwargs": {}}], r"wrappers of a .* \(\[\]\), got .*m:W"),
    ],
)
def test_sets_with_other_tasks_are_not_compared(kwargs, wrappers, message):
    first = evaluated("a", {"split": "heldout", "seed": 1})
    check_same_sets([first, evaluated("b", {"split": "heldout", "seed": 1})])
    with pytest.raises(ConfigError, match="must have the " + message):
        check_same_sets([first, evaluated("b", kwargs, wrappers)])


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("/storage/gsm8k/test.jsonl", "~/data/test.jsonl", True),
        ("../data/test.jsonl", "data/test.jsonl", True),
        ("/data/shop/", "/srv/shop", True),
        ("/data/test.jsonl", "/data/train.jsonl", False),
        ({"base_url": "http://one:8000/v1"}, {"base_url": "http://two:9000/v1"}, True),
        (["/usr/bin/python3", "server.py"], ["/opt/bin/python3", "server.py"], True),
        ("hf:openai/gsm8k", "hf:other/gsm8k", False),
        ("Answer with yes and/or no.", "Answer with no and/or no.", False),
        ("Is it 1/2?", "Is it 3/2?", False),
    ],
)
def test_of_a_path_the_last_part_counts(ours, theirs, same):
    arms = [evaluated("a", {"given": ours}), evaluated("b", {"given": theirs})]
    if same:
        check_same_sets(arms)
    else:
        with pytest.raises(ConfigError, match=r"must have the kwargs\.given of a"):
            check_same_sets(arms)


def test_a_set_that_was_not_measured_is_compared_by_what_is_known_of_it():
    broken = [Evaluation(0, [result([], [])]), *evaluations()[1:]]
    check_same_sets([arm(), arm("b", broken)])


def test_directory_without_an_evaluation_is_no_arm(tmp_path):
    with pytest.raises(ConfigError, match="at least one evaluation"):
        Arm.read(tmp_path)


def test_path_that_does_not_exist_is_said_to_be_missing_with_a_near_name(tmp_path):
    (tmp_path / "run_one").mkdir()
    with pytest.raises(ConfigError, match=r"RUN must be an existing .*Did you mean .*/run_one\?"):
        Arm.read(tmp_path / "run_oen")
    with pytest.raises(ConfigError, match=r"RUN must be an existing .*Check the path\."):
        Arm.read(tmp_path / "none" / "other")


def test_arms_of_one_name_are_told_apart_by_the_folders_above(tmp_path):
    places = ["a/x/m3.json", "b/x/m3.json", "b/y.z.json"]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write(evaluations()[0], tmp_path / place)
    names = [arm.name for arm in read_arms([tmp_path / place for place in places])]
    assert names == ["a/x/m3", "b/x/m3", "y.z"]
    assert free_name(read_arms([tmp_path / place for place in places[:2]])).name == "compare-a-x-m3-b-x-m3.png"
    assert [arm.name for arm in read_arms([tmp_path / places[0]] * 2)] == ["m3", "m3"]


def drawn(monkeypatch, arms, output):
    """The visible panels of a plot."""
    from matplotlib import pyplot

    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    plot(arms, output)
    monkeypatch.undo()
    panels = [axis for axis in figures[0].axes if axis.axison]
    pyplot.close(figures[0])
    return panels


def test_arms_evaluated_once_are_points_with_error_bars(monkeypatch, tmp_path):
    arms = [arm("base", evaluations()[:1]), arm("sft", evaluations()[1:2])]
    assert not has_curves(arms)
    (panel,) = drawn(monkeypatch, arms, tmp_path / "points.png")
    assert (panel.get_ylim(), panel.get_xlabel()) == ((0, 1), "")
    assert [label.get_text() for label in panel.get_xticklabels()] == ["base", "sft"]
    assert [list(line.get_xydata()[0]) for line in panel.lines] == [[0, 0.25], [1, 0.5]]
    band = evaluations()[1].sets[0].interval("greedy")
    assert panel.collections[1].get_segments()[0].tolist() == [[1, band.low], [1, band.high]]


def test_more_than_three_panels_are_wrapped_into_rows(monkeypatch, tmp_path):
    sets = [result([1.0], [1], name=f"s{n}") for n in range(4)]
    found = [Evaluation(0, sets), Evaluation(10, sets)]
    panels = drawn(monkeypatch, [Arm("a", found, [{"step": 1, "rollout_entropy": 0.3}])], tmp_path / "five.png")
    assert [panel.get_ylim()[0] for panel in panels] == [0] * 5
    assert [panel.get_ylim()[1] for panel in panels[:4]] == [1] * 4
    assert len({round(panel.get_position().y0, 2) for panel in panels}) == 2


def test_arm_reads_evaluations_and_metrics(tmp_path):
    (tmp_path / "evaluations").mkdir()
    for evaluation in evaluations():
        write(evaluation, evaluation_file(tmp_path, evaluation.step))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "rollout_entropy": 0.3}) + "\n")
    arm = Arm.read(tmp_path)
    assert (arm.name, arm.evaluations) == (tmp_path.name, evaluations())
    assert arm.metrics == [{"step": 1, "rollout_entropy": 0.3}]


def test_results_of_eval_are_an_arm_too(tmp_path):
    write(evaluations()[0], tmp_path / "sft.json", {"checkpoint": "x"})
    found = Arm.read(tmp_path / "sft.json")
    assert (found.name, found.evaluations, found.metrics) == ("sft", evaluations()[:1], [])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": 0, "sets": [{"name": "a"}]}', "no json"])
def test_file_of_something_else_is_no_arm(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match="or a file of `rejuvenate eval --out`"):
        Arm.read(tmp_path / "x.json")


def test_plot_is_written_with_and_without_task_sets(tmp_path):
    metrics = [{"step": s, "rollout_entropy": 0.3} for s in (1, 2)] + [{"step": 3}]
    plot([Arm("a", evaluations(), metrics)], tmp_path / "new" / "curves.png", "title")
    plot([Arm("a", [Evaluation(0, [])], metrics)], tmp_path / "none.png")
    plot([Arm("a", [Evaluation(0, [result([], [])])], [])], tmp_path / "unmeasured.png")
    for file in (tmp_path / "new" / "curves.png", tmp_path / "none.png", tmp_path / "unmeasured.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
