"""Rebuild the tool-use toy from code alone: `python -m examples.toy.tool_build`, about ten minutes on one idle core.

The base model reads look-up chains of every habit (`tool_documents`); SFT then shows it few short demonstrations of
`rejuvenate/Lookup-v0`: a moderate number of steps (Mod), or far too many (Over).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from envs.lookup import LookupEnv
from envs.spaces import Message
from examples.toy.checkpoint import load_model, new_model, save_checkpoint
from examples.toy.tokenizer import build_tokenizer
from examples.toy.tool_documents import batches

HERE = Path(__file__).parent
IGNORED = -100
BASE_STEPS, WARMUP_STEPS, DECAY_STEPS, PEAK_LEARNING_RATE = 900, 100, 300, 2e-3
MODERATE_STEPS, OVER_STEPS, SFT_LEARNING_RATE = 20, 800, 1e-3
BATCH_SIZE = 32
EXAMPLES = 64
SFT_SEED = 1000
PROBLEMS = {"hops_min": 1, "hops_max": 2}


def encode(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Render a conversation with the toy's chat template.

    Returns:
        Token ids [T], and targets [T]: the token itself in assistant turns, their end-of-turn token included, else
        IGNORED.
    """
    token_ids: list[int] = []
    targets: list[int] = []
    for message in messages:  # the template renders every message on its own
        role, *content = tokenizer(tokenizer.apply_chat_template([message], tokenize=False))["input_ids"]
        token_ids += [role, *content]
        targets += [IGNORED, *(content if message["role"] == "assistant" else [IGNORED] * len(content))]
    return token_ids, targets


def demonstrations(count: int, seed: int, split: str = "train") -> list[list[Message]]:
    """Play the environment's expert on `count` tasks as easy as those of SFT."""
    environment = LookupEnv(hops_min=PROBLEMS["hops_min"], hops_max=PROBLEMS["hops_max"], split=split, seed=seed)
    conversations = []
    for index in range(count):
        environment.reset(options={"index": index})
        messages = environment.demonstration()
        assert messages is not None
        conversations.append(messages)
    return conversations


def shuffled_passes(conversations: list[list[Message]], size: int, seed: int) -> Iterator[list[list[Message]]]:
    """Yield batches from shuffled passes over the data, without end."""
    rng = random.Random(seed)
    left: list[list[Message]] = []
    while True:
        if len(left) < size:
            left += rng.sample(conversations, len(conversations))
        yield left[:size]
        left = left[size:]


def train(
    model: Qwen2ForCausalLM,
    drawn: Iterator[list[list[Message]]],
    *,
    steps: int,
    learning_rate: Callable[[int], float],
    after_step: Callable[[int], None] = lambda step: None,
    label: str = "",
) -> None:
    """Train in place with AdamW; the loss is on the assistant's tokens and the end of its turns.

    Args:
        model: float32.
        drawn: one list of conversations per optimizer step.
        steps: optimizer steps.
        learning_rate: step, counted from 1 -> learning rate.
        after_step: called with the number of the step just made.
        label: what the progress lines begin with.
    """
    tokenizer = build_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = learning_rate(step)
        encoded = [encode(tokenizer, messages) for messages in next(drawn)]
        token_ids = torch.zeros(len(encoded), max(len(ids) for ids, _ in encoded), dtype=torch.long)
        targets = torch.full_like(token_ids, IGNORED)
        for row, (ids, scored) in enumerate(encoded):  # padded on the right, where causal attention never looks
            token_ids[row, : len(ids)] = torch.tensor(ids)
            targets[row, : len(ids)] = torch.tensor(scored)
        hidden = model.model(input_ids=token_ids, use_cache=False).last_hidden_state[:, :-1]
        kept = targets[:, 1:] != IGNORED
        loss = F.cross_entropy(model.lm_head(hidden[kept]), targets[:, 1:][kept])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        after_step(step)
        if step % 50 == 0 or step == steps:
            mean = sum(losses) / len(losses)
            print(f"{label} step {step}/{steps} loss {mean:.6f} {time.monotonic() - started:.0f} s", flush=True)
            losses = []


def pretrain(directory: Path, steps: int = BASE_STEPS, seed: int = 0) -> None:
    """Train the base model from nothing on freshly drawn documents and write its checkpoint."""

    def learning_rate(step: int) -> float:
        return PEAK_LEARNING_RATE * min(1.0, step / WARMUP_STEPS) * min(1.0, max(0.02, (steps - step) / DECAY_STEPS))

    model = new_model(seed)
    train(model, batches(seed, BATCH_SIZE), steps=steps, learning_rate=learning_rate, label="base")
    save_checkpoint(model, directory)


def climb(base: Path, rungs: dict[int, Path], seed: int = SFT_SEED) -> None:
    """Fine-tune the base checkpoint at a constant learning rate and export every rung.

    Args:
        base: the base checkpoint's directory.
        rungs: optimizer steps -> the directory that the checkpoint after so many steps goes to.
        seed: of the tasks and their order; all rungs of one seed are points of the same run.
    """
    model = load_model(base)

    def export(step: int) -> None:
        if step in rungs:
            save_checkpoint(model, rungs[step])

    train(
        model,
        shuffled_passes(demonstrations(EXAMPLES, seed), BATCH_SIZE, seed),
        steps=max(rungs),
        learning_rate=lambda step: SFT_LEARNING_RATE,
        after_step=export,
        label="sft",
    )


def build_moderate(base: Path, directory: Path) -> None:
    """Rebuild Mod, which does not ship, from the shipped base checkpoint: seconds on one core."""
    climb(base, {MODERATE_STEPS: directory})


def main() -> None:
    """Pretrain the base model, climb the SFT ladder, and write the checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=HERE / "tool", help="directory of the checkpoints (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--base-steps", type=int, default=BASE_STEPS, help="pretraining steps (default: %(default)s)")
    parser.add_argument("--keep-base", action="store_true", help="take the base checkpoint that is there")
    parser.add_argument("--moderate", action="store_true", help="also write the moderate SFT checkpoint, sft_mod")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.keep_base:
        pretrain(options.out / "base", options.base_steps)
    rungs = {OVER_STEPS: options.out / "sft_over"}
    if options.moderate:
        rungs[MODERATE_STEPS] = options.out / "sft_mod"
    climb(options.out / "base", rungs)


if __name__ == "__main__":
    main()
