"""The command `rejuvenate`. Nothing heavy is imported before the arguments are parsed and the config is valid."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from configs.errors import ConfigError
from configs.output_file import OVERWRITE_HELP, check_output_file
from orchestrator.environment_cli import app as environment_app
from rejuvenation.cli import diagnose, transform

app = typer.Typer(
    help="Make reinforcement learning work again on language models that were over-trained by SFT.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
EXAMPLES = {
    "run": "configs/math_toy.yaml algorithm.steps=2",
    "plan": "configs/math_toy.yaml --cluster nodes=1,cpus=16",
    "eval": "examples/toy/math/sft_over configs/suites/math_toy.yaml",
    "sft": "configs/math_toy.yaml run_dir=runs/sft",
    "export": "runs/default",
    "compare": "runs/one runs/another",
}
"""Command -> arguments that it can be called with, shown where one is missing."""
ConfigArguments = Annotated[
    list[str],
    typer.Argument(metavar="FILE.yaml ... [KEY=VALUE ...]", help="YAML files, merged left to right, then overrides."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=OVERWRITE_HELP)]


def load_config(arguments: list[str], defaults: dict | None = None):  # type: ignore[no-untyped-def]
    """Files and overrides in any order -> a valid `RunConfig` whose packages are ours."""
    from configs.loader import load
    from orchestrator.shadowing import prepare_imports

    prepare_imports()
    files = [a for a in arguments if is_file_name(a)]
    return load(files, [a for a in arguments if not is_file_name(a)], defaults)


def is_file_name(argument: str) -> bool:
    """Whether an argument is a YAML file (whose path may hold `=`) rather than KEY=VALUE."""
    return argument.endswith((".yaml", ".yml")) or "=" not in argument


def validate(arguments: list[str]):  # type: ignore[no-untyped-def]
    """Everything that can be checked before something expensive starts; returns the config and the model's shape."""
    from configs.checkpoint import check_model, check_rejuvenation, check_user_model
    from orchestrator.run_directory import check_free, resolve_run_dir
    from orchestrator.task_sets import check, task_sets, try_environment

    config = load_config(arguments)
    shape = check_model(config.model)
    check_rejuvenation(config.model, config.rejuvenation)
    served = try_environment(config.environment, config.model).uses_user_model
    served = check(task_sets(config), config.model) or served
    check_user_model(config.user_model, used=served)
    check_free(resolve_run_dir(config), config.resume)
    return config, shape


@app.command()
def run(arguments: ConfigArguments) -> None:
    """Diagnose and rejuvenate the SFT checkpoint, then train it with RL."""
    config, _ = validate(arguments)
    from orchestrator.compare import Arm, plot
    from orchestrator.console import Console
    from orchestrator.evaluation_table import LEGEND, table
    from orchestrator.running import run as run_all

    console = Console()
    result = run_all(config, console)
    arm = Arm.read(result.run_dir)
    _print([table([arm]), "", LEGEND])
    plot([arm], result.run_dir / "curves.png")
    run_dir = shown(result.run_dir)
    console.say(f"policy: {run_dir / 'final'}")
    console.say(f"curves: {run_dir / 'curves.png'}")


@app.command()
def plan(
    arguments: ConfigArguments,
    cluster: Annotated[
        str | None, typer.Option(help="A cluster to compare with: nodes=2,gpus=8,cpus=64 (gpus, cpus per node).")
    ] = None,
) -> None:
    """Validate, print the resolved configuration, the batch arithmetic and the placement; start nothing."""
    config, shape = validate(arguments)
    from orchestrator.placement import parse_cluster, this_machine
    from orchestrator.plan import report

    if cluster is not None:
        nodes, source = parse_cluster(cluster), "declared"
    elif config.launcher == "ray" and _address(config.cluster.address):
        nodes, source = _connected_nodes(config), "connected"
    else:
        nodes, source = this_machine(config), "this machine"
    text, short = report(config, shape, nodes, source)
    typer.echo(text)
    if short:
        typer.echo(f"The run does not fit: {short}", err=True)
        raise typer.Exit(1)


@app.command(name="eval")
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A Hugging Face directory, a hub name, or a run directory.")],
    arguments: ConfigArguments,
    out: Annotated[Path | None, typer.Option(help="Where to write the results as JSON, task by task.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Evaluate a checkpoint on an evaluation suite, or on the task sets of a run's configuration.

    Exit code 1 where a set could not be measured; the others are shown all the same.
    """
    config = validate_evaluation(checkpoint, arguments)
    from orchestrator.compare import Arm
    from orchestrator.console import Console
    from orchestrator.evaluating import check_out, evaluate_checkpoint
    from orchestrator.evaluation_table import LEGEND, table

    if out is not None:
        check_out(out, overwrite=overwrite)
    result = evaluate_checkpoint(config, Console(), out)
    _print([table([Arm("", [result], [])]), "", LEGEND])
    if out is not None:
        typer.echo(f"results: {out}")
    missing = [s.name for s in result.sets if not s.measured]
    if missing:
        typer.echo(f"rejuvenate: not measured: {', '.join(missing)}", err=True)
        raise typer.Exit(1)


def validate_evaluation(checkpoint: str, arguments: list[str]):  # type: ignore[no-untyped-def]
    """Check an evaluation as far as possible before engines start; a training environment is not needed.

    A user model that no set talks to is left out: the section may come from the configuration of a run that needs it.
    """
    from configs.checkpoint import check_user_model, is_hub_name, read_config
    from orchestrator.task_sets import check, task_sets

    location = str(Path(checkpoint) / "final") if (Path(checkpoint) / "config.yaml").is_file() else checkpoint
    model = [f"model.base={location}", f"model.sft={location}", "model.start=sft"]
    config = load_config([*arguments, *model], {"environment": {"id": ""}})
    if not is_hub_name(location):
        read_config("CHECKPOINT", location)
    if not config.evaluation.sets:
        fix = "Add an evaluation suite, configs/suites/math_toy.yaml, say."
        raise ConfigError("evaluation.sets", "must hold at least one task set", [], fix)
    served = check(task_sets(config), config.model)
    if config.user_model is not None and not served:
        typer.echo("user_model is not started: no task set talks to it", err=True)
        return replace(config, user_model=None)
    check_user_model(config.user_model, used=served)
    return config


@app.command()
def sft(arguments: ConfigArguments) -> None:
    """Fine-tune the base checkpoint on demonstrations."""
    # What it makes need not be there before, nor an environment where the data are given.
    config = load_config(arguments, {"model": {"sft": "${model.base}"}, "environment": {"id": ""}})
    if config.sft.data is None and not config.environment.id:
        fix = "Or give sft.data, a JSONL of conversations."
        raise ConfigError("environment.id", "must be given where sft.data is not", None, fix)
    from configs.checkpoint import is_hub_name, read_config
    from orchestrator.console import Console
    from orchestrator.conversations import check_conversations
    from orchestrator.run_directory import check_free, resolve_run_dir

    if not is_hub_name(config.model.base):
        read_config("model.base", config.model.base)
    check_conversations(config)
    check_free(resolve_run_dir(config), resume=False)
    from orchestrator.sft import sft as fine_tune

    console = Console()
    result = fine_tune(config, console)
    console.say(f"policy: {shown(result.run_dir) / 'final'}")


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    output: Annotated[Path | None, typer.Option(help="Where to write it; RUN/export by default.")] = None,
) -> None:
    """Write the newest policy of a run as an ordinary Hugging Face directory."""
    from orchestrator.exporting import export as export_run

    target = output or run_dir / "export"
    source = export_run(run_dir, target)
    typer.echo(f"{shown(target)} (from {shown(source)})")


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN ...", help="Run directories, or files of `rejuvenate eval --out`.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Where to write the plot; compare-RUN-RUN.png by default, or with a number.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Print one table of several runs on all their task sets, and plot them."""
    from orchestrator.compare import free_name, has_curves, plot, read_arms
    from orchestrator.evaluation_table import LEGEND, table

    if output is not None:
        check_output_file("--output", output, overwrite=overwrite)
    arms = read_arms(runs)
    _print([table(arms), "", LEGEND])
    output = output or free_name(arms)
    plot(arms, output)
    typer.echo(f"{'curves' if has_curves(arms) else 'plot'}: {output}")


app.command()(transform)  # the repair alone, as `python -m rejuvenation` offers it too
app.command()(diagnose)
app.add_typer(environment_app, name="env")


def shown(path: Path) -> Path:
    """A path as it is printed: without `..`, which links may make lead elsewhere than it reads."""
    return path.resolve() if ".." in path.parts else path


def _print(parts: list) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part)


def _address(configured: str | None) -> str | None:
    return configured or os.environ.get("RAY_ADDRESS")


def _connected_nodes(config) -> list:  # type: ignore[no-untyped-def]
    import ray

    from orchestrator.launchers import cluster_nodes, connect

    connect(config)
    try:
        return cluster_nodes()
    finally:
        ray.shutdown()


def main() -> None:
    """Entry point: errors of the user are one paragraph and exit code 2, failures of a run one and exit code 1."""
    try:
        code = app(standalone_mode=False)  # what `typer.Exit` carried is returned, not raised
    except ConfigError as error:
        _stop(str(error), 2)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except RuntimeError as error:
        _stop(str(error), 1)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            _stop(_usage(error), 2)
        raise
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code without a word
        _stop("interrupted; everything that was started has been ended", INTERRUPTED)
    sys.exit(code)


def _usage(error: Any) -> str:
    """What is wrong with the command line, with an example where an argument is missing; nothing below the help."""
    if type(error).__name__ == "NoArgsIsHelpError":  # the help has been printed
        return ""
    message = str(error.format_message())
    command = error.ctx.info_name if getattr(error, "ctx", None) else None
    if type(error).__name__ == "MissingParameter" and command in EXAMPLES:
        return f"{message} For example: rejuvenate {command} {EXAMPLES[command]}"
    return message


def _stop(message: str, code: int) -> None:
    if message:
        typer.echo(f"rejuvenate: {message}", err=True)
    sys.exit(code)
