"""The toys' SFT ladders: one run each on few, easy tasks; an early checkpoint is Mod, the last one is Over.

The same run with the DFT loss in place of cross entropy gives the DFT rung.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.registry import make
from examples.toy.checkpoint import load_model, save_checkpoint
from examples.toy.tokenizer import build_tokenizer
from examples.toy.training import Conversation, shuffled_passes, train
from policies.rendering import Renderer

HERE = Path(__file__).parent
BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Rung:
    """A checkpoint of the ladder."""

    steps: int
    """Optimizer steps before it."""
    loss: str = "cross entropy"
    """A key of `examples.toy.training.LOSSES`."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """One SFT run: the environment's own expert on a few tasks, over and over; after a warm-up the rate is constant."""

    environment: str
    kwargs: dict[str, Any]
    """How easy the tasks are."""
    examples: int
    learning_rate: float
    warmup_steps: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    seed: int = 0
    """Of the tasks and their order."""
    rungs: dict[str, Rung] = field(
        default_factory=lambda: {"sft_mod": Rung(20), "sft_over": Rung(800), "sft_dft": Rung(800, "dft")}
    )
    """By the name of the checkpoint. Those of one loss lie on one run."""


LADDERS = {
    "math": Ladder(
        "rejuvenate/Arithmetic-v0", {"operations_min": 2, "operations_max": 2, "operand_max": 20}, 32, 2e-3, 100
    ),
    "tool": Ladder("rejuvenate/Lookup-v0", {"hops_min": 1, "hops_max": 2}, 64, 1e-3, betas=(0.9, 0.98), seed=1000),
}


def demonstrations(ladder: Ladder) -> list[Conversation]:
    """Return the environment's own expert on the ladder's tasks, all of the train split."""
    environment: Any = make(ladder.environment, {**ladder.kwargs, "split": "train", "seed": ladder.seed}).unwrapped
    conversations = []
    for index in range(ladder.examples):
        environment.reset(options={"index": index})
        messages = environment.demonstration()
        assert messages is not None
        conversations.append(messages)
    return conversations


def climb(task: str, base: Path, rungs: dict[str, Path], ladder: Ladder | None = None) -> None:
    """Fine-tune a base checkpoint and export rungs on the way.

    Args:
        task: `math` or `tool`.
        base: the base checkpoint's directory.
        rungs: name of a rung, all of one loss -> the directory that its checkpoint goes to; the run ends with the last
            of them.
        ladder: another SFT run than the task's own.
    """
    ladder = ladder or LADDERS[task]
    exports = {ladder.rungs[name].steps: directory for name, directory in rungs.items()}
    (loss_name,) = {ladder.rungs[name].loss for name in rungs}
    model = load_model(base)

    def export(step: int) -> None:
        if step in exports:
            save_checkpoint(model, exports[step])

    train(
        model,
        Renderer(build_tokenizer()),
        shuffled_passes(demonstrations(ladder), BATCH_SIZE, ladder.seed),
        steps=max(exports),
        learning_rate=lambda step: ladder.learning_rate * min(1.0, step / ladder.warmup_steps),
        betas=ladder.betas,
        loss_name=loss_name,
        after_step=export,
        label=f"{task}, SFT:" if loss_name == "cross entropy" else f"{task}, SFT ({loss_name}):",
    )


def ensure_rung(task: str, name: str, directory: Path, ladder: Ladder | None = None) -> Path:
    """Build a rung that does not ship from the shipped base, unless it is there; returns `directory`.

    Mod takes seconds, the DFT rung as long as Over did. `ladder` is another SFT run than the task's own.
    """
    if not directory.is_dir():
        staging = directory.with_name(f".{directory.name}.partial")
        climb(task, HERE / task / "base", {name: staging}, ladder)
        staging.rename(directory)
    return directory
