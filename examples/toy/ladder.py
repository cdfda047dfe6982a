"""The toys' SFT ladders: one run each on few, easy tasks; an early checkpoint is Mod, the last one is Over."""

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
    rungs: dict[str, int] = field(default_factory=lambda: {"sft_mod": 20, "sft_over": 800})
    """Name of the checkpoint -> optimizer steps before it."""


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


def climb(task: str, base: Path, rungs: dict[str, Path]) -> None:
    """Fine-tune a base checkpoint and export rungs on the way.

    Args:
        task: `math` or `tool`.
        base: the base checkpoint's directory.
        rungs: name of a rung -> the directory that its checkpoint goes to; the run ends with the last of them.
    """
    ladder = LADDERS[task]
    exports = {ladder.rungs[name]: directory for name, directory in rungs.items()}
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
        after_step=export,
        label=f"{task}, SFT:",
    )


def ensure_moderate(task: str, directory: Path) -> Path:
    """Build Mod, which does not ship, from the shipped base in seconds, unless it is there; returns `directory`."""
    if not directory.is_dir():
        staging = directory.with_name(f".{directory.name}.partial")
        climb(task, HERE / task / "base", {"sft_mod": staging})
        staging.rename(directory)
    return directory
