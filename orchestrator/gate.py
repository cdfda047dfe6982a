"""Which checkpoint RL starts from: the repaired one or the SFT checkpoint, by what both can do on training prompts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from configs.run import RunConfig
from orchestrator.evaluation import mean
from orchestrator.parcel import Parcel
from orchestrator.run_directory import write_atomic
from orchestrator.trial_rollouts import at_most, trial_rollouts
from orchestrator.workers import Workers
from rejuvenation.diagnostics.passes import pass_at_k

GATE_FILE = "gate.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one checkpoint did on the gate's prompts."""

    pass_at_1: float
    """Share of sampled episodes that solved their task."""
    pass_at_k: float
    """Chance that one of k solves it; unbiased (arXiv 2107.03374, Eq. 1)."""
    signal: float
    """Share of tasks that some, but not all, of their episodes solved: groups that RL can learn from."""
    failed: int = 0
    """Episodes whose environment failed or was late; they count as unsolved."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The gate's answer, as it stands in gate.json."""

    kept: str
    """`sft` or `rejuvenated`."""
    sentence: str
    """Why, for a person."""
    sft: Measured
    """Before the repair."""
    rejuvenated: Measured
    """After it."""


def pass_gate(config: RunConfig, workers: Workers, repaired: Parcel, run_dir: Path) -> tuple[Parcel, Decision]:
    """Measure both checkpoints on the engines and return the one to start from.

    The decision is written to gate.json; a resumed run takes it from there.

    Args:
        config: of the run; `rejuvenation.gate_prompts` training tasks (or all, where there are fewer), each sampled
            `evaluation.samples` times.
        workers: with engines.
        repaired: the rejuvenated checkpoint.
        run_dir: of the run.
    """
    file = run_dir / GATE_FILE
    if file.is_file():
        plain = json.loads(file.read_text())
        decision = Decision(
            plain["kept"], plain["sentence"], Measured(**plain["sft"]), Measured(**plain["rejuvenated"])
        )
        if decision.kept == "rejuvenated":
            return repaired, decision
        return replace(workers.read(config.model.sft), report=repaired.report), decision
    prompts = at_most(config, config.rejuvenation.gate_prompts)
    after = measure(config, workers, repaired, prompts)
    sft = workers.read(config.model.sft)
    decision = decide(measure(config, workers, sft, prompts), after, config.evaluation.k, prompts)
    write_atomic(file, json.dumps(asdict(decision), indent=1) + "\n")
    return (repaired if decision.kept == "rejuvenated" else replace(sft, report=repaired.report)), decision


def decide(sft: Measured, rejuvenated: Measured, k: int, prompts: int) -> Decision:
    """Keep the checkpoint with the larger pass@k; of equal ones that with more groups to learn from; else SFT's.

    pass@k rather than pass@1, because RL reinforces what sampling finds: an over-trained model may answer better at
    once and find nothing else.
    """
    better = (rejuvenated.pass_at_k, rejuvenated.signal) > (sft.pass_at_k, sft.signal)
    kept = "rejuvenated" if better else "sft"
    sentence = (
        f"gate: on {prompts} training prompts pass@{k} is {sft.pass_at_k:.3f} before and {rejuvenated.pass_at_k:.3f} "
        f"after the repair, groups with a signal {sft.signal:.0%} and {rejuvenated.signal:.0%}: RL starts from the "
        f"{kept} checkpoint" + ("" if better else "; no repair needed")
    )
    if sft.failed or rejuvenated.failed:
        sentence += f" (episodes whose environment failed: {sft.failed} and {rejuvenated.failed})"
    return Decision(kept, sentence, sft, rejuvenated)


def measure(config: RunConfig, workers: Workers, parcel: Parcel, prompts: int) -> Measured:
    """Sample a checkpoint on `prompts` training tasks drawn by the run's seed; both checkpoints get the same seeds."""
    samples, k = config.evaluation.samples, config.evaluation.k
    found = trial_rollouts(
        config,
        workers,
        parcel.handles,
        prompts=prompts,
        samples=samples,
        temperature=config.evaluation.temperature,
        purpose="gate",
    )
    return Measured(
        mean([count / samples for count in found.solved]),
        mean([pass_at_k(samples, count, k) for count in found.solved]),
        mean([float(0 < count < samples) for count in found.solved]),
        found.failed,
    )
