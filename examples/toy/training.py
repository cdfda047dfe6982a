"""One plain next-token training loop on conversations, for the toys' base models and their SFT ladders."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from transformers import Qwen2ForCausalLM

from envs.spaces import Message
from policies.rendering import Renderer

Conversation = list[Message]
IGNORED = -100


def dft(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Dynamic Fine-Tuning (arXiv 2508.05629): the mean of `-sg(p) * log p` over [N] targets, given [N, V] logits."""
    logprobs = -F.cross_entropy(logits, targets, reduction="none")
    return -(logprobs.detach().exp() * logprobs).mean()


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross entropy": F.cross_entropy,
    "dft": dft,
}
"""Name -> mean loss of [N] targets, given [N, V] logits."""


def train(
    model: Qwen2ForCausalLM,
    renderer: Renderer,
    batches: Iterator[list[Conversation]],
    *,
    steps: int,
    learning_rate: Callable[[int], float],
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    loss_name: str = "cross entropy",
    after_step: Callable[[int], None] = lambda step: None,
    label: str = "",
) -> None:
    """Train in place with AdamW; the loss is on the assistant's tokens and the end of its turns.

    Args:
        model: float32.
        renderer: of the model's tokenizer.
        batches: one list of conversations per optimizer step.
        steps: optimizer steps.
        learning_rate: step, counted from 1 -> learning rate.
        betas: of AdamW.
        weight_decay: of AdamW.
        loss_name: a key of `LOSSES`.
        after_step: called with the number of the step just made.
        label: what the progress lines begin with.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=betas, weight_decay=weight_decay)
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        token_ids, targets = collate(renderer, next(batches))
        hidden = model.model(input_ids=token_ids, use_cache=False).last_hidden_state[:, :-1]
        scored = targets[:, 1:] != IGNORED
        loss = LOSSES[loss_name](model.lm_head(hidden[scored]), targets[:, 1:][scored])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        after_step(step)
        if step % 50 == 0 or step == steps:
            mean = sum(losses) / len(losses)
            print(f"{label} step {step}/{steps} loss {mean:.6f} {time.monotonic() - started:.0f} s", flush=True)
            losses = []


def collate(renderer: Renderer, conversations: Sequence[Conversation]) -> tuple[torch.Tensor, torch.Tensor]:
    """Render conversations into padded token ids and targets.

    Returns:
        token_ids: [B, T] int64, padded on the right, where causal attention never looks.
        targets: [B, T] int64; `token_ids` where the assistant speaks, IGNORED elsewhere.
    """
    rendered = [renderer.training_example(messages) for messages in conversations]
    token_ids = torch.full((len(rendered), max(len(ids) for ids, _ in rendered)), renderer.tokenizer.pad_token_id)
    targets = torch.full_like(token_ids, IGNORED)
    for row, (ids, loss_mask) in enumerate(rendered):
        token_ids[row, : len(ids)] = torch.tensor(ids)
        scored = torch.tensor(loss_mask, dtype=torch.bool)
        targets[row, : len(ids)][scored] = torch.tensor(ids)[scored]
    return token_ids, targets


def pooled_batches(
    document: Callable[[random.Random], Conversation],
    length: Callable[[Conversation], int],
    size: int,
    seed: int,
    pool: int = 16,
) -> Iterator[list[Conversation]]:
    """Yield batches of freshly drawn documents of similar length, without end, so that little is padded.

    Args:
        document: draws one.
        length: of a document, to sort by.
        size: documents per batch.
        seed: of the documents and their order.
        pool: batches drawn together, sorted by length, cut and shuffled.
    """
    rng = random.Random(seed)
    while True:
        documents = sorted((document(rng) for _ in range(size * pool)), key=length)
        order = list(range(pool))
        rng.shuffle(order)
        for index in order:
            yield documents[index * size : (index + 1) * size]


def shuffled_passes(conversations: list[Conversation], size: int, seed: int) -> Iterator[list[Conversation]]:
    """Yield batches from shuffled passes over the data, without end."""
    rng = random.Random(seed)
    left: list[Conversation] = []
    while True:
        if len(left) < size:
            left += rng.sample(conversations, len(conversations))
        yield left[:size]
        left = left[size:]
