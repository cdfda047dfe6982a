"""Command line of the repair. Heavy imports wait until the arguments are parsed and valid."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
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


@app.command()
def transform(
    base: Base,
    sft: Sft,
    out: Annotated[Path, typer.Option(help="Directory to write; must not exist yet.")],
    calibration: Calibration = None,
    alpha: Annotated[float, typer.Option(help="Weight of the SFT checkpoint in the fusion.")] = 0.5,
    rho: Annotated[float, typer.Option(help="Share of all neurons kept per target token.")] = 0.01,
    reset: Annotated[str, typer.Option(help="attribution, random, or none (fusion only).")] = "attribution",
    pairs: Annotated[int, typer.Option(help="Calibration pairs used.")] = 64,
    target_tokens: Annotated[int, typer.Option(help="Response tokens scored per pair.")] = 8,
    union_cap: Annotated[float | None, typer.Option(help="Largest share of all neurons reset.")] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Draws calibration pairs and the random reset.")] = 0,
) -> None:
    """Write the rejuvenated checkpoint and its report.json."""
    config = RejuvenationConfig(
        alpha=alpha,
        rho=rho,
        reset=reset,
        calibration=str(calibration) if calibration else None,
        calibration_pairs=pairs,
        target_tokens=target_tokens,
        union_cap=union_cap,
        device=device,
    )
    if calibration is None and reset != "none" and rho > 0.0:
        fix = "Give --calibration data.jsonl, such as lines of the SFT data; or --reset none for fusion alone."
        raise ConfigError("--calibration", "is needed to score neurons for the reset", None, fix)
    if calibration is not None and not calibration.is_file():
        raise ConfigError("--calibration", "must be an existing JSONL file", str(calibration), "Check the path.")
    check_checkpoint(base, "--base")
    check_checkpoint(sft, "--sft")
    check_output(out, [base, sft], weight_bytes(sft, "--sft"))
    from rejuvenation.pipeline import transform as run

    report = run(base, sft, out, config, seed=seed)
    typer.echo(f"{out}: reset {report.num_reset} of {report.num_neurons} neurons ({report.effective_ratio:.1%})")
    if report.entropy_at_targets is not None and report.entropy_on_responses is not None:
        for where, entropy in (
            ("target tokens", report.entropy_at_targets),
            ("all response tokens", report.entropy_on_responses),
        ):
            typer.echo(
                f"mean entropy on {where} (nats): base {entropy.base:.3f}, sft {entropy.sft:.3f}, "
                f"fused {entropy.fused:.3f}, rejuvenated {entropy.rejuvenated:.3f}"
            )
    if report.reconstruction_error is not None:
        typer.echo(f"largest reconstruction error of a logit: {report.reconstruction_error:.2e}")
    for note in report.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{report.seconds['all']:.1f} s; {out / 'report.json'}")


@app.command()
def diagnose(
    base: Base,
    sft: Sft,
    calibration: Annotated[Path, typer.Option(help='JSONL of {"messages": [...]} lines.')],
    device: Device = "auto",
) -> None:
    """Show entropy and drift of an SFT checkpoint next to its base."""
    config = RejuvenationConfig(device=device)
    check_checkpoint(base, "--base")
    check_checkpoint(sft, "--sft")
    from rejuvenation.diagnosis import diagnose as run
    from rejuvenation.pairs import load_pairs

    diagnosis = run(base, sft, load_pairs(calibration, sft), config)
    typer.echo(f"mean entropy (nats): base {diagnosis.entropy_base:.3f}, sft {diagnosis.entropy_sft:.3f}")
    typer.echo(
        f"tokens with high entropy: base {diagnosis.high_entropy_share_base:.1%}, "
        f"sft {diagnosis.high_entropy_share_sft:.1%}"
    )
    typer.echo("drift ||sft - base|| / ||base||: " + ", ".join(f"{k} {v:.4f}" for k, v in diagnosis.drift.items()))


def main() -> None:
    """Run the command; what the user did wrong is one paragraph and exit code 2, what the machine refused code 1."""
    logging.basicConfig(level=logging.WARNING)
    try:
        app()
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
