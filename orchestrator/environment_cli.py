"""The commands `rejuvenate env ...`: list, check, play and start an environment of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs.errors import ConfigError
from configs.output_file import OVERWRITE_HELP, check_output_file

if TYPE_CHECKING:
    from envs.checkup import Finding

app = typer.Typer(help="Environments: list, check, play in the terminal, or start your own.", no_args_is_help=True)

EnvironmentId = Annotated[
    str, typer.Argument(metavar="ENV", help="A registered id, package.module:Class, or package:Id-v0.")
]
Kwargs = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Keyword arguments of the environment.")
]
Model = Annotated[
    Path | None,
    typer.Option(help="Checkpoint directory whose tokenizer and chat template render; without it a plain ChatML."),
]


@app.command(name="list")
def list_environments() -> None:
    """List the environments that a config can name: those shipped, and those of installed packages."""
    from envs.registry import REGISTRATIONS, installed

    for environment_id, entry_point in REGISTRATIONS.items():
        typer.echo(f"{environment_id}\n    {entry_point}")
    for environment_id, entry_point in installed().items():
        typer.echo(f"{environment_id}\n    {entry_point} (installed)")
    typer.echo("package.module:Class\n    any gymnasium.Env, your own or envs.question_answer:QuestionAnswerEnv")


@app.command()
def check(environment: EnvironmentId, kwargs: Kwargs = None, model: Model = None) -> None:
    """Run gymnasium's checker and ours; say of each failure what is wrong and what to do. Exit code 1 on a failure."""
    make = _maker(environment, kwargs, model)
    make().close()  # what cannot even be made is an error of the arguments
    from envs.checkup import checkup
    from orchestrator.environment_rendering import renderer_of, rendering_findings

    renderer = renderer_of(model)
    failed = passed = 0
    for findings in (checkup(make), rendering_findings(make(), renderer)):
        for finding in findings:
            _show(finding)
            failed, passed = failed + bool(finding.problems), passed + (not finding.problems)
    typer.echo(f"{environment}: {passed} checks passed, {failed} failed")
    if failed:
        raise typer.Exit(1)


@app.command()
def play(
    environment: EnvironmentId,
    kwargs: Kwargs = None,
    seed: Annotated[int, typer.Option(help="Seed of the first episode; the next ones count on.")] = 0,
    index: Annotated[int | None, typer.Option(help="Number of the task; without it the seed draws one.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show the text that the model's tokens spell, too.")] = False,
    model: Model = None,
) -> None:
    """Play the assistant. A line is a turn (a line that ends in a backslash goes on); Ctrl-D or Ctrl-C ends."""
    env = _maker(environment, kwargs, model)()
    from orchestrator.environment_play import play_episodes
    from orchestrator.environment_rendering import renderer_of

    renderer = renderer_of(model) if tokens or model else None
    try:
        play_episodes(env, seed, index, renderer, typer.echo)
    finally:
        env.close()


@app.command()
def prompts(
    environment: EnvironmentId,
    out: Annotated[Path, typer.Option(help="JSONL file to write; for `rejuvenate transform --prompts`.")],
    kwargs: Kwargs = None,
    count: Annotated[int, typer.Option(help="Training tasks, from the first on; fewer where there are fewer.")] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE_HELP)] = False,
) -> None:
    """Write what the first turns of an environment's training tasks are asked: messages and tools, a line for each."""
    if count < 1:
        raise ConfigError("--count", "must be 1 or more", count, "Leave it out for 64.")
    check_output_file("--out", out, overwrite=overwrite)
    from orchestrator.shadowing import prepare_imports

    prepare_imports()
    from configs.environment import EnvironmentConfig
    from orchestrator.demonstrations import demonstrations
    from orchestrator.run_directory import write_atomic

    shown = demonstrations(EnvironmentConfig(id=environment, kwargs=_parse(kwargs or [])), count)
    rows = [{"messages": task.opening, **({"tools": task.tools} if task.tools else {})} for task in shown]
    write_atomic(out, "".join(json.dumps(row) + "\n" for row in rows))
    typer.echo(f"{len(rows)} prompts in {out}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the package: lower-case letters, digits and _.")],
    directory: Annotated[Path, typer.Option(help="Where its folder is made.")] = Path("."),
) -> None:
    """Write a package with an environment of your own and a test of it."""
    from orchestrator.environment_package import class_name, write_package

    root = write_package(name, directory)
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        typer.echo(str(file))
    environment_id = f"{name}:{class_name(name)}-v0"
    typer.echo(f"\nNext:\n  cd {root}\n  rejuvenate env check {environment_id}\n  rejuvenate env play {environment_id}")
    typer.echo("  python -m pytest\n  pip install -e .   # then the id alone names it, from everywhere")


def _maker(environment: str, kwargs: list[str] | None, model: Path | None):  # type: ignore[no-untyped-def]
    """What makes the environment that the arguments name; `tool_parser=auto` is the form of the model's template."""
    from orchestrator.shadowing import prepare_imports

    prepare_imports()
    given = _parse(kwargs or [])
    from envs.registry import make
    from envs.tool_calls import AUTO

    if model is not None and given.get("tool_parser") == AUTO:
        from configs.environment import EnvironmentConfig
        from orchestrator.environment_rendering import renderer_of
        from orchestrator.tool_forms import with_tool_form

        given = with_tool_form(EnvironmentConfig(environment, given), renderer_of(model).tool_template).kwargs
    return lambda: make(environment, given)


def _parse(arguments: list[str]) -> dict[str, Any]:
    """KEY=VALUE with YAML values, dots for nested keys -> keyword arguments."""
    from configs.loader import merge_overrides

    for argument in arguments:
        if "=" not in argument:
            raise ConfigError("keyword arguments", "must be KEY=VALUE", argument, "Write split=heldout, say.")
    return merge_overrides(arguments)


def _show(finding: Finding) -> None:
    """Print one line on a check that passed, and what to do on one that failed."""
    from textwrap import fill

    def paragraph(text: str) -> str:
        shown = text if len(text) <= 600 else text[:597] + "..."
        return fill(" ".join(shown.split()), 80, initial_indent="        ", subsequent_indent="        ")

    typer.echo(f"{'FAILED' if finding.problems else 'passed'}  {finding.name}")
    for problem in finding.problems:
        typer.echo(paragraph(problem))
    if finding.problems and finding.fix:
        typer.echo(paragraph(f"Fix: {finding.fix}"))
    if finding.note:
        typer.echo(paragraph(finding.note))
