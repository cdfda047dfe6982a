import io

from rich.console import Console as RichConsole

from orchestrator.console import Console


def console(label="", **options):
    out = io.StringIO()
    return Console(RichConsole(file=out, highlight=False, **options), label), out


def test_paths_are_not_broken_and_markup_in_them_is_text():
    shown, out = console(label="a [red]b", width=40)
    path = "/storage/" + "x" * 60 + "/[bold]run[/bold]/final dir"
    shown.say(f"policy: {path}")
    assert out.getvalue() == f"a [red]b · policy: {path}\n"


def test_stage_ends_with_a_dimmed_time():
    shown, out = console(label="math", force_terminal=True, color_system="standard")
    with shown.stage("rejuvenated [x]"):
        pass
    assert out.getvalue().splitlines()[-1].endswith("math · rejuvenated [x]\x1b[2m (0 s)\x1b[0m")


def test_counted_stage_off_the_terminal_says_every_fifth_of_it():
    shown, out = console(width=80)
    shown.begin("fine-tuning", total=10)
    for step in range(10):
        shown.advance({"loss": float(step)})
    shown.end()
    assert out.getvalue().splitlines() == [f"fine-tuning {n}/10 loss {n - 1}.0000" for n in (2, 4, 6, 8, 10)]


def test_sentence_wraps_between_words_within_the_width_and_is_indented():
    shown, out = console(label="math, rejuvenated", width=40)
    shown.explain("weights moved from base by 12% of their norm, most in mlp.down_proj (31%)")
    assert out.getvalue().splitlines() == [
        "math, rejuvenated · weights moved from",
        "  base by 12% of their norm, most in",
        "  mlp.down_proj (31%)",
    ]
