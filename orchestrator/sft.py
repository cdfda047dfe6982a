"""`rejuvenate sft`: supervised fine-tuning of the base checkpoint with one of the learner's SFT losses."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from configs.run import RunConfig
from orchestrator import loggers, run_directory
from orchestrator.console import Console
from orchestrator.conversations import conversations
from orchestrator.launchers import launch
from orchestrator.parcel import write_small_files
from orchestrator.running import Result, RunState
from orchestrator.seeding import derive
from orchestrator.tool_forms import with_tool_form
from orchestrator.workers import Workers
from policies.batching import Sample
from policies.losses import Loss


def sft(config: RunConfig, console: Console) -> Result:
    """Start the learner group, fine-tune `model.base`, export final/ and the ladder's checkpoints, end."""
    run_dir = run_directory.resolve_run_dir(config)
    run_directory.check_free(run_dir, resume=False)
    run_directory.create(run_dir, config)
    with launch(config, run_dir, rollouts=False) as workers:
        return sft_on(config, workers, run_dir, console)


def sft_on(config: RunConfig, workers: Workers, run_dir: Path, console: Console) -> Result:
    """Fine-tune on learners that exist already."""
    workers.check_fits(config)
    parcel = workers.read(config.model.base)
    workers.load(parcel, config)
    examples = render(config, parcel.files)
    loss = Loss(config.sft.loss)
    recorded = loggers.Loggers(config.logging, run_dir)
    console.begin("fine-tuning", total=config.sft.steps)
    try:
        for step in range(1, config.sft.steps + 1):
            batch = [examples[i] for i in batch_indices(len(examples), config.sft.batch_size, step, config.seed)]
            figures = workers.update(batch, loss)
            recorded.log(step, figures)
            console.advance(figures)
            if step in (config.sft.save_steps or []) and step < config.sft.steps:
                workers.export(str(run_dir / f"step_{step:06d}"), parcel.files)
    finally:
        console.end()
        recorded.close()
    workers.export(str(run_dir / "final"), parcel.files)
    return Result(run_dir, RunState(config.sft.steps, 0), {})


def batch_indices(examples: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Indices of the examples of optimizer step `step` (from 1): shuffled passes over the data, cut into batches."""
    first = (step - 1) * batch_size
    indices = []
    for position in range(first, first + batch_size):
        epoch, place = divmod(position, examples)
        order = np.random.default_rng(derive(seed, "sft", epoch)).permutation(examples)
        indices.append(int(order[place]))
    return indices


def render(config: RunConfig, files: dict[str, bytes]) -> list[Sample]:
    """Token ids and masks of all conversations: 1 on assistant turns, their end-of-turn token included.

    Args:
        config: of the run.
        files: the checkpoint's small files, with its tokenizer and chat template.
    """
    from policies.rendering import load_renderer

    with tempfile.TemporaryDirectory() as directory:
        renderer = load_renderer(write_small_files(files, directory))
    environment = with_tool_form(config.environment, renderer.tool_template)
    samples = []
    for messages, tools in conversations(dataclasses.replace(config, environment=environment)):
        token_ids, loss_mask = renderer.training_example(messages, tools)
        samples.append(Sample(token_ids, loss_mask))
    return samples
