"""One plain next-token training loop on prompt-answer pairs, for the toy's base model and for its SFT ladder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

Pair = tuple[str, str]
"""The user's text and the assistant's."""
IGNORED = -100


def train(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterator[list[Pair]],
    *,
    steps: int,
    learning_rate: Callable[[int], float],
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    after_step: Callable[[int], None] = lambda step: None,
    label: str = "",
) -> None:
    """Train in place with AdamW; the loss is on the assistant's tokens and the end of its turn.

    Args:
        model: float32.
        tokenizer: renders the pairs through its chat template.
        batches: one list of pairs per optimizer step.
        steps: optimizer steps.
        learning_rate: step, counted from 1 -> learning rate.
        betas: of AdamW.
        weight_decay: of AdamW.
        after_step: called with the number of the step just made.
        label: what the progress lines begin with.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=betas, weight_decay=weight_decay)
    started = time.monotonic()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        token_ids, targets = collate(tokenizer, next(batches))
        hidden = model.model(input_ids=token_ids).last_hidden_state[:, :-1]
        scored = targets[:, 1:] != IGNORED
        loss = F.cross_entropy(model.lm_head(hidden[scored]), targets[:, 1:][scored])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after_step(step)
        if step % 50 == 0 or step == steps:
            print(f"{label} step {step}/{steps} loss {loss.item():.5f} {time.monotonic() - started:.0f} s", flush=True)


def collate(tokenizer: PreTrainedTokenizerFast, pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Render pairs into padded token ids and targets.

    Returns:
        token_ids: [B, T] int64, padded on the right.
        targets: [B, T] int64; `token_ids` where the assistant speaks, IGNORED elsewhere.
    """
    prompts, whole = [], []
    for problem, answer in pairs:
        user, assistant = {"role": "user", "content": problem}, {"role": "assistant", "content": answer}
        prompts.append(tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True))
        whole.append(tokenizer.apply_chat_template([user, assistant], tokenize=False))
    prompt_ids, whole_ids = tokenizer(prompts)["input_ids"], tokenizer(whole)["input_ids"]
    token_ids = torch.full((len(pairs), max(map(len, whole_ids))), int(tokenizer.pad_token_id))
    targets = torch.full_like(token_ids, IGNORED)
    for row, (prompt, ids) in enumerate(zip(prompt_ids, whole_ids, strict=True)):
        token_ids[row, : len(ids)] = torch.tensor(ids)
        targets[row, len(prompt) : len(ids)] = torch.tensor(ids[len(prompt) :])
    return token_ids, targets
