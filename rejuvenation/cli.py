"""Command line of the repair. Heavy imports wait until the arguments are parsed and valid."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from configs.auto import AUTO, AutoConfig
from configs.diagnosis import DIAGNOSTICS, DiagnosisConfig
from configs.errors import ConfigError, Shown
from configs.fusion import FUSIONS, FusionConfig
from configs.loader import load_section
from configs.output_file import OVERWRITE_HELP, check_output_file
from configs.rejuvenation import (
    CRITERIA,
    DEVICE_MAPS,
    RANKINGS,
    RESET_TARGETS,
    SCORE_SIGNS,
    SCORING_DTYPES,
    RejuvenationConfig,
)
from rejuvenation.directories import check_checkpoint, check_output, weight_bytes

app = typer.Typer(
    add_completion=False,
    help="Repair over-trained SFT checkpoints before RL (arXiv 2606.09932).",
    pretty_exceptions_enable=False,
)

Base = Annotated[Path, typer.Option(help="Base checkpoint: the directory that SFT started from.")]
Sft = Annotated[Path, typer.Option(help="SFT checkpoint directory of the same architecture.")]
Calibration = Annotated[
    Path | None, typer.Option(help='JSONL of {"messages": [...]} or {"prompt": ..., "response": ...}.')
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DEFAULTS = RejuvenationConfig()
MEASURED = DiagnosisConfig()


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command end with one paragraph: exit code 2 for what the user did wrong, 1 for what the machine refused."""

    @functools.wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        try:
            command(*args, **kwargs)
        except ValueError as error:
            typer.echo(f"rejuvenate: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            typer.echo(f"rejuvenate: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from None

    return run


@app.command()
@explained
def transform(
    sft: Sft,
    out: Annotated[Path, typer.Option(help="Directory to write; must not exist yet.")],
    base: Annotated[
        Path | None,
        typer.Option(help="Base checkpoint, or an early SFT checkpoint as the anchor; not for steps that need none."),
    ] = None,
    calibration: Calibration = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSONL of prompts. Without --calibration the SFT checkpoint answers them greedily; with answers, "
            "candidates for alpha and rho are tried on them."
        ),
    ] = None,
    steps: Annotated[
        str,
        typer.Option(
            help=f"Fusions, then at most one reset, with commas. fusion.: {', '.join(FUSIONS)}. "
            f"reset.: {', '.join(CRITERIA)}."
        ),
    ] = ",".join(DEFAULTS.steps),
    alpha: Annotated[
        str, typer.Option(metavar="NUMBER|auto", help="Weight of the SFT checkpoint in the fusion.")
    ] = f"{DEFAULTS.alpha}",
    rho: Annotated[
        str, typer.Option(metavar="NUMBER|auto", help="Share of all neurons kept per target token.")
    ] = f"{DEFAULTS.rho}",
    auto: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Setting of auto, such as answer_marker='#'; may be repeated."),
    ] = None,
    fusion: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Setting of a fusion step, such as density=0.3; may be repeated."),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Calibration pairs used.")] = DEFAULTS.calibration_pairs,
    target_tokens: Annotated[int, typer.Option(help="Response tokens scored per pair.")] = DEFAULTS.target_tokens,
    equal_size: Annotated[
        bool,
        typer.Option(
            "--equal-size/--rho-alone",
            help="Whether criteria other than attributions reset as many neurons as attribution would, or rho of all.",
        ),
    ] = DEFAULTS.equal_size,
    ranking: Annotated[
        str, typer.Option(help=f"Neurons that compete for rho: {', '.join(RANKINGS)}.")
    ] = DEFAULTS.ranking,
    union_cap: Annotated[float | None, typer.Option(help="Largest share of all neurons reset.")] = DEFAULTS.union_cap,
    score_sign: Annotated[
        str, typer.Option(help=f"What is ranked: {', '.join(SCORE_SIGNS)} scores.")
    ] = DEFAULTS.score_sign,
    frozen_norm: Annotated[
        bool, typer.Option("--frozen-norm/--true-norm", help="Whether gradients take the final norm's scale as fixed.")
    ] = DEFAULTS.frozen_norm,
    reset_target: Annotated[
        str, typer.Option(help=f"What a reset neuron becomes: {', '.join(RESET_TARGETS)}.")
    ] = DEFAULTS.reset_target,
    strength: Annotated[float, typer.Option(help="Share of the way to the reset target.")] = DEFAULTS.strength,
    plasticity: Annotated[
        bool, typer.Option("--plasticity", help="Measure sharpness and gradient signal too; ten times the memory.")
    ] = DEFAULTS.plasticity,
    device: Device = DEFAULTS.device,
    device_map: Annotated[
        str | None,
        typer.Option(help=f"Spread the scored model over GPUs, memory and disk: {', '.join(DEVICE_MAPS)}."),
    ] = DEFAULTS.device_map,
    max_memory: Annotated[
        list[str] | None,
        typer.Option(metavar="PLACE=SIZE", help="With --device-map: at most, such as 0=70GiB or cpu=200GiB; repeat."),
    ] = None,
    scoring_dtype: Annotated[
        str, typer.Option(help=f"Of the scored model: {', '.join(SCORING_DTYPES)}.")
    ] = DEFAULTS.scoring_dtype,
    seed: Annotated[int, typer.Option(help="Draws calibration pairs and the random reset.")] = 0,
    dry_run: Annotated[bool, typer.Option(help="Check everything, say what is needed, and write nothing.")] = False,
) -> None:
    """Write the rejuvenated checkpoint and its report: report.json, and report.html for people."""
    config = RejuvenationConfig(
        alpha=alpha,
        rho=rho,
        auto=load_section(AutoConfig, auto or [], "rejuvenation.auto."),
        steps=[step.strip() for step in steps.split(",")],
        equal_size=equal_size,
        fusion=load_section(FusionConfig, fusion or [], "rejuvenation.fusion."),
        calibration=str(calibration) if calibration else None,
        calibration_pairs=pairs,
        target_tokens=target_tokens,
        ranking=ranking,
        union_cap=union_cap,
        score_sign=score_sign,
        frozen_norm=frozen_norm,
        reset_target=reset_target,
        strength=strength,
        plasticity=plasticity,
        device=device,
        device_map=device_map,
        max_memory=dict(part.partition("=")[::2] for part in max_memory or []),
        scoring_dtype=scoring_dtype,
    )
    if calibration is None and prompts is None and config.needs_pairs:
        fix = (
            "Give --calibration data.jsonl, such as lines of the SFT data, or --prompts for prompts alone; or "
            "--steps fusion.linear for fusion alone."
        )
        raise ConfigError("--calibration", "is needed to score neurons for the reset", Shown(""), fix)
    if calibration is None and prompts is None and config.is_auto:
        name = "--alpha" if config.alpha == AUTO else "--rho"
        fix = "Give --prompts with answers, or --calibration, whose final answers count; or a number."
        raise ConfigError(name, "can be auto only with prompts to try candidates on", AUTO, fix)
    for option, file in (("--calibration", calibration), ("--prompts", prompts)):
        if file is not None and not file.is_file():
            raise ConfigError(option, "must be an existing JSONL file", str(file), "Check the path.")
    if base is None and config.needs_base:
        raise ConfigError(
            "--base", "must be given: a step looks at it", Shown(""), "Give it, or an early SFT checkpoint."
        )
    inputs = {"--sft": sft} if base is None else {"--base": base, "--sft": sft}
    for option, directory in inputs.items():
        check_checkpoint(directory, option)
    check_output(out, list(inputs.values()), weight_bytes(sft, "--sft"))
    _say_needs(base, sft, config, scored=calibration is not None or prompts is not None)
    if dry_run:
        if calibration is not None:
            from rejuvenation.pairs import load_pairs

            typer.echo(f"pairs    {len(load_pairs(calibration, sft)):,} in {calibration}, at most {pairs} are used")
        typer.echo(f"dry run: nothing was written; without --dry-run the checkpoint goes to {out}")
        return
    from rejuvenation.page import PAGE_FILE
    from rejuvenation.pipeline import transform as run

    asked: list[list[int]] = []
    grader = None
    if prompts is not None and (calibration is None or config.is_auto):
        from rejuvenation.diagnostics.asked import Asked

        found = Asked.of(sft, None, prompts, config.auto.answer_marker, most=config.auto.prompts)
        asked, grader = [prompt.token_ids for prompt in found.prompts], found.grader
        if config.is_auto:
            _say(found.graded_by)
    report = run(base, sft, out, config, prompts=asked, reward=grader, seed=seed)
    if report.choice is not None:
        from rejuvenation.choice_table import lines

        for line in lines(report.choice):
            typer.echo(line)
    typer.echo(f"{out}: reset {report.num_reset} of {report.num_neurons} neurons ({report.effective_ratio:.1%})")
    if report.entropy_at_targets is not None and report.entropy_on_responses is not None:
        for where, entropy in (
            ("target tokens", report.entropy_at_targets),
            ("all response tokens", report.entropy_on_responses),
        ):
            _say(
                f"mean entropy on {where} (nats): base {entropy.base:.3f}, sft {entropy.sft:.3f}, "
                f"fused {entropy.fused:.3f}, rejuvenated {entropy.rejuvenated:.3f}"
            )
    if report.reconstruction_error is not None:
        typer.echo(f"largest reconstruction error of a logit: {report.reconstruction_error:.2e}")
    for note in report.notes:
        _say(f"note: {note}")
    typer.echo(f"{report.seconds['all']:.1f} s; {out / 'report.json'}")
    typer.echo(f"for people: {out / PAGE_FILE}")


def _say_needs(base: Path | None, sft: Path, config: RejuvenationConfig, *, scored: bool) -> None:
    """Check what can be checked without scoring, and say what the repair reads, writes and holds in memory."""
    from rejuvenation.alignment import Alignment
    from rejuvenation.checkpoint import CheckpointReader
    from rejuvenation.needs import Needs
    from rejuvenation.neurons import NeuronTable

    reader = CheckpointReader(sft, "sft")
    alignment = Alignment(reader if base is None else CheckpointReader(base, "base"), reader)
    if config.criterion is not None:
        typer.echo(f"neurons  {NeuronTable.of(alignment.sft).total:,}")
    needs = Needs.of(alignment.base, alignment.sft, config, scored=scored)
    needs.check()
    for line in needs.lines():
        _say(line, indent=9)
    if config.is_auto:
        auto = config.auto
        count = (1 + len(auto.alphas)) * (config.alpha == AUTO) + len(auto.rhos) * (config.rho == AUTO)
        rollouts = f"{auto.samples} rollouts of at most {auto.prompts} prompts"
        _say(f"auto     about {count} candidates, each on {rollouts} (without answers: on the pairs)", indent=9)


def _say(text: str, indent: int = 2) -> None:
    """Print a sentence, wrapped where it is long."""
    from rejuvenation.choice_table import wrapped

    for line in wrapped(text, indent):
        typer.echo(line)


@app.command()
@explained
def diagnose(
    base: Base,
    sft: Annotated[list[Path], typer.Option(help="SFT checkpoint directory; repeat it for a ladder.")],
    calibration: Annotated[
        Path | None,
        typer.Option(help='JSONL of {"messages": [...]} or {"prompt", "response"}; best lines SFT has not seen.'),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help='JSONL of {"prompt" or "question" or "messages", "answer"}; default: the calibration\'s.'),
    ] = None,
    answer_marker: Annotated[
        str | None, typer.Option(help="Grade only what follows the last of these, such as '#'.")
    ] = None,
    only: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(DIAGNOSTICS)}.")] = "all",
    out: Annotated[Path | None, typer.Option(help="JSON file to write everything to.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE_HELP)] = False,
    pairs: Annotated[int, typer.Option(help="Calibration pairs used.")] = MEASURED.calibration_pairs,
    num_prompts: Annotated[int, typer.Option(help="Prompts sampled from.")] = MEASURED.prompts,
    samples: Annotated[int, typer.Option(help="Rollouts per prompt.")] = MEASURED.samples,
    group_size: Annotated[int, typer.Option(help="Rollouts per GRPO group.")] = MEASURED.group_size,
    k: Annotated[int, typer.Option(help="k of pass@k.")] = MEASURED.k,
    max_new_tokens: Annotated[int, typer.Option(help="Longest response sampled.")] = MEASURED.max_new_tokens,
    rollout_batch: Annotated[int, typer.Option(help="Sequences sampled at once.")] = MEASURED.rollout_batch,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one backward pass.")] = MEASURED.batch_tokens,
    sharpness_pairs: Annotated[
        int, typer.Option(help="Pairs that sharpness is measured on.")
    ] = MEASURED.sharpness_pairs,
    rank_max_side: Annotated[
        int, typer.Option(help="Largest smaller side of a matrix whose effective rank is measured.")
    ] = MEASURED.rank_max_side,
    dtype: Annotated[str, typer.Option(help=f"Of the model: {', '.join(SCORING_DTYPES)}.")] = MEASURED.dtype,
    device: Device = MEASURED.device,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = MEASURED.seed,
) -> None:
    """Measure the plasticity of SFT checkpoints next to their base, and say what to do with each."""
    config = DiagnosisConfig(
        only=DIAGNOSTICS if only == "all" else tuple(name.strip() for name in only.split(",")),
        calibration_pairs=pairs,
        prompts=num_prompts,
        samples=samples,
        group_size=group_size,
        k=k,
        max_new_tokens=max_new_tokens,
        rollout_batch=rollout_batch,
        batch_tokens=batch_tokens,
        sharpness_pairs=sharpness_pairs,
        rank_max_side=rank_max_side,
        dtype=dtype,
        device=device,
        seed=seed,
    )
    check_checkpoint(base, "--base")
    for directory in sft:
        check_checkpoint(directory, "--sft")
    if out is not None:
        check_output_file("--out", out, overwrite=overwrite)
    from rejuvenation.diagnostics.asked import Asked, save

    asked = Asked.of(sft[0], calibration, prompts, answer_marker, most=config.prompts)
    from rejuvenation.diagnosis import diagnose as run

    found = run(
        base,
        sft,
        asked.pairs,
        prompts=[prompt.token_ids for prompt in asked.prompts],
        reward=asked.grader,
        config=config,
        say=lambda line: typer.echo(line, err=True),
    )
    from rejuvenation.diagnostics.side_by_side import show

    show(found, asked.graded_by)
    if out is not None:
        save(out, base, found, asked.graded_by, config)
        typer.echo(str(out))


def main() -> None:
    """Run the command."""
    logging.basicConfig(level=logging.WARNING)
    app()
