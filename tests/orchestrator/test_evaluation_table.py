import re

from rich.console import Console

from orchestrator.compare import Arm
from orchestrator.evaluation import Evaluation, SetResult
from orchestrator.evaluation_table import LEGEND, share, table


def result(greedy, correct, name="heldout", kind="id", entropy=0.5, **more):
    return SetResult(name, kind, 2, greedy, correct, samples=4, entropy=entropy, truncated=0.0, **more)


def run(name="over"):
    found = [
        [result([1.0, 0.0, 0.0, 0.0], [4, 0], entropy=0.2), result([0.0, 0.0], [1, 2], "long", "ood")],
        [result([1.0, 1.0, 1.0, 0.0], [4, 2], entropy=0.3), result([1.0, 1.0], [4, 4], "long", "ood")],
    ]
    return Arm(name, [Evaluation(step, sets) for step, sets in zip((0, 30), found, strict=True)], [])


def shown(*parts):
    console = Console(width=80, force_terminal=False, highlight=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines), "nothing is cut"
    return lines


def cells(lines, label):
    """The numbers of the first line that begins with `label`, its standard errors, and the intervals below it."""
    at = next(i for i, line in enumerate(lines) if line.startswith(label))
    words = lines[at].split()[len(label.split()) :]
    numbers, errors = ([word for word in words if word.startswith("±") == is_error] for is_error in (False, True))
    return numbers, errors, re.findall(r"\[[^\]]*\]", lines[at + 1])


def test_one_table_shows_every_run_on_every_set_in_80_columns():
    lines = shown(table([run(), run("rejuvenated-with-a-very-long-name-indeed")], "tool use"), LEGEND)
    assert lines[0] == "tool use"
    assert lines[1].split() == ["greedy", "pass@1", "pass@2", "signal", "entropy"]
    assert sum("greedy         pass@1" in line for line in lines) == 1, "one table"
    for heading in (
        "heldout: in distribution, 4 tasks, 2 of them sampled 4 times",
        "long: out of distribution, 2 tasks, each sampled 4 times",
    ):
        assert lines.count(heading) == 1
    assert lines.count("over") == lines.count("rejuvenated-with-a-very-long-name-indeed") == 2
    before, errors, intervals = cells(lines, "  before RL")
    assert before == [".250", ".500", ".500", ".000", "0.200"]
    assert errors == ["±.250", "±.500", "±.500"]
    assert intervals[0] == "[.046, .699]"
    assert len(intervals) == 3
    after, _, _ = cells(lines, "  after RL")
    assert after == [".750", ".750", ".917", ".500", "0.300"]
    gain, errors, intervals = cells(lines, "  gain")
    assert gain == ["+.500", "+.250", "+.417", "+.500", "+0.100"]
    assert errors == ["±.289", "±.250", "±.417"], "of the differences, task by task"
    assert intervals[0].startswith("[-.")
    assert cells(lines, "  area")[0] == [".500", ".625", ".708", ".250", "0.250"]


def test_checkpoint_alone_has_one_row_per_set():
    lines = shown(table([Arm("", run().evaluations[-1:], [])]))
    assert not any(word in line for line in lines for word in ("before RL", "gain", "area"))
    at = lines.index("heldout: in distribution, 4 tasks, 2 of them sampled 4 times")
    assert lines[at + 1].split() == [".750", "±.250", ".750", "±.250", ".917", "±.083", ".500", "0.300"]
    assert lines[at + 2].split()[0] == "[.301,"


def test_checkpoints_are_compared_by_their_names():
    first = Arm("sft", run().evaluations[:1], [])
    second = Arm("a-checkpoint-with-a-longer-name", run().evaluations[-1:], [])
    lines = shown(table([first, second]))
    assert cells(lines, "sft")[0][0] == ".250"
    at = lines.index("a-checkpoint-with-a-longer-name")
    assert lines[at + 1].split()[0] == ".750"


def test_sets_of_different_k_say_theirs():
    sets = [result([1.0], [4]), SetResult("b", "ood", 4, [1.0], [4], samples=4, entropy=0.1, truncated=0.0)]
    lines = shown(table([Arm("", [Evaluation(0, sets)], [])]))
    assert lines[0].split()[2] == "pass@k"
    assert "heldout: in distribution, 1 tasks, each sampled 4 times, pass@2" in lines
    assert "b: out of distribution, 1 tasks, each sampled 4 times, pass@4" in lines


def test_what_went_wrong_is_said_below_the_figures():
    late = result([0.0, 1.0], [1, 2], failed=3, error="timed_out: step took longer than 60 s")
    broken = result([], [], "tool", "ood", failed=9, error="all 9 greedy episodes failed, the first one as " + "x" * 90)
    lines = shown(table([Arm("", [Evaluation(0, [late, broken])], [])]))
    text = " ".join(" ".join(lines).split())
    assert "3 of 10 episodes failed and count as unsolved, the first one as timed_out: step took longer" in text
    assert "tool: out of distribution not measured: all 9 greedy episodes failed" in text
    assert not any(".000" in line for line in lines[lines.index("tool: out of distribution") :]), "no figures for it"


def test_run_whose_set_could_not_be_measured_at_one_end_shows_the_other():
    found = run().evaluations
    broken = result([], [], error="all 4 greedy episodes failed, the first one as timed_out: x")
    for evaluations, label, hidden, when in (
        ([Evaluation(0, [broken]), Evaluation(30, found[1].sets[:1])], "  after RL", "  before RL  ", "before RL: not"),
        ([Evaluation(0, found[0].sets[:1]), Evaluation(30, [broken])], "  before RL", "  after RL  ", "after RL: not"),
    ):
        lines = shown(table([Arm("a", evaluations, [])]))
        assert cells(lines, label)[0]
        assert not any(line.startswith((hidden, "  gain", "  area")) for line in lines)
        assert any(line.startswith(f"  {when} measured: all 4") for line in lines)
    lines = shown(table([Arm("a", [Evaluation(0, [broken]), Evaluation(30, [broken])], [])]))
    assert sum("not measured" in line for line in lines) == 1


def test_samples_that_a_limit_cut_are_mentioned_from_one_in_twenty_on():
    for truncated, said in ((0.04, False), (0.5, True)):
        cut = SetResult("a", "id", 2, [1.0], [4], samples=4, entropy=0.1, truncated=truncated)
        lines = shown(table([Arm("", [Evaluation(0, [cut])], [])]))
        assert any("50% of the sampled episodes were cut by a limit" in line for line in lines) == said


def test_numbers_without_the_zero_before_the_point():
    assert [share(v) for v in (0.0, 0.425, 1.0)] == [".000", ".425", "1.000"]
    assert [share(v, "+") for v in (-0.25, 0.0, 1.0, -1.0)] == ["-.250", "+.000", "+1.000", "-1.000"]
