"""The commands `rejuvenate env ...`: list, check, play and start an environment of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs.errors import ConfigError
from configs.output_file import OVERWRITE_HELP, check_output_file

if TYPE_CHECKING:
    import gymnasium

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
    from envs.registry import WITHOUT_ID

    for entry_point, what in WITHOUT_ID.items():
        typer.echo(f"{entry_point}\n    {what}")
    typer.echo("package.module:Class\n    any gymnasium.Env of your own")


@app.command()
def check(environment: EnvironmentId, kwargs: Kwargs = None, model: Model = None) -> None:
    """Run gymnasium's checker and ours; say of each failure what is wrong and what to do. Exit code 1 on a failure."""
    make = _maker(environment, kwargs, model)
    from itertools import chain

    from envs.checkup import checkup, told_once
    from orchestrator.environment_pool import close_quietly
    from orchestrator.environment_rendering import renderer_of, rendering_findings

    close_quietly(_made(make, environment))
    findings = []
    for finding in told_once(chain(checkup(make), rendering_findings(make(), renderer_of(model)))):
        _show(finding)
        findings.append(finding)
    failed = sum(bool(finding.problems) for finding in findings)
    skipped = sum(finding.skipped for finding in findings)
    counted = f"{environment}: {len(findings) - failed - skipped} checks passed, {failed} failed"
    typer.echo(counted + (f", {skipped} not run" if skipped else ""))
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
    env = _made(_maker(environment, kwargs, model), environment)
    from orchestrator.environment_play import play_episodes
    from orchestrator.environment_pool import close_quietly
    from orchestrator.environment_rendering import renderer_of

    try:
        renderer = renderer_of(model) if tokens or model else None
        play_episodes(env, environment, seed, index, renderer, typer.echo)
    finally:
        close_quietly(env)


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


def _maker(environment: str, kwargs: list[str] | None, model: Path | None) -> Callable[[], gymnasium.Env[Any, Any]]:
    """What makes the environment that the arguments name; `tool_parser=auto` is the form of the model's template."""
    from configs.checkpoint import is_hub_name
    from orchestrator.shadowing import prepare_imports

    if model is not None and not model.is_dir() and not is_hub_name(str(model)):
        fix = "Give a Hugging Face checkpoint directory, or a hub name `organisation/name`."
        raise ConfigError("--model", "must be an existing directory or a hub name", str(model), fix)
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


def _made(make: Callable[[], gymnasium.Env[Any, Any]], environment: str) -> gymnasium.Env[Any, Any]:
    """Make the environment; what its constructor raises is an error of the arguments."""
    try:
        return make()
    except ConfigError:
        raise
    except Exception as error:  # the author's code
        from envs.raised import Raised
        from envs.registry import find_spec, load

        entry_point = find_spec(environment).entry_point
        made = load(entry_point) if isinstance(entry_point, str) else entry_point
        raised = Raised.of(error, made if isinstance(made, type) else None)
        rule = f"must name an environment that can be made ({raised.error}{raised.place and f' at {raised.place}'})"
        raise ConfigError("environment.id", rule, environment, "Mend its constructor, or what it is given.") from error


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

    if finding.skipped:
        typer.echo(f"not run {finding.name}: see above")
        return
    typer.echo(f"{'FAILED' if finding.problems else 'passed'}  {finding.name}")
    for problem in finding.problems:
        typer.echo(paragraph(problem))
    if finding.problems and finding.fix:
        typer.echo(paragraph(f"Fix: {finding.fix}"))
    if finding.note:
        typer.echo(paragraph(finding.note))
