"""Rollouts of the model in memory: sampled with transformers, in batches, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rejuvenation.pairs import TokenPair
from rejuvenation.spread import device_of


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    samples: int,
    *,
    end_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    greedy: bool = False,
) -> list[list[TokenPair]]:
    """Sample at temperature 1 from the whole vocabulary, as GRPO does: no top-k, top-p or penalty.

    Prompts of similar length share a batch. The same seed gives the same rollouts on the same machine with the same
    number of threads; the global random state is left as it was. Cost: one forward pass per sampled token and batch.

    Args:
        model: a causal language model of transformers.
        prompts: token ids.
        samples: n rollouts per prompt.
        end_ids: tokens that end a response; the first one is kept.
        max_new_tokens: longest response; less where the model's positions end earlier.
        batch_size: sequences generated at once.
        seed: of the sampling.
        greedy: take the likeliest token each time instead.

    Returns:
        [prompts][n] pairs of the prompt and what was sampled.
    """
    from transformers import GenerationConfig

    device = device_of(model)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    jobs = [index for index in order for _ in range(samples)]
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    how = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    settings = {**how, "eos_token_id": list(end_ids) or None}
    rollouts: list[list[TokenPair]] = [[] for _ in prompts]
    own = model.generation_config
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        try:
            for start in range(0, len(jobs), batch_size):
                batch = [list(prompts[index]) for index in jobs[start : start + batch_size]]
                longest = max(map(len, batch))
                room = max_new_tokens if limit is None else max(1, min(max_new_tokens, limit - longest))
                # the checkpoint's own settings (penalties, top-k) would fill what is left open here
                model.generation_config = GenerationConfig(**settings, pad_token_id=0, max_new_tokens=room)
                padded = [[0] * (longest - len(ids)) + ids for ids in batch]
                seen = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch]
                output = model.generate(
                    input_ids=torch.tensor(padded, device=device), attention_mask=torch.tensor(seen, device=device)
                )
                for index, ids in zip(jobs[start : start + batch_size], output[:, longest:].tolist(), strict=True):
                    rollouts[index].append(TokenPair(list(prompts[index]), until_end(ids, end_ids)))
        finally:
            model.generation_config = own
    return rollouts


def until_end(token_ids: list[int], end_ids: Sequence[int]) -> list[int]:
    """The tokens up to the first of `end_ids`, with it; all of them where there is none."""
    stop = next((place + 1 for place, token in enumerate(token_ids) if token in end_ids), len(token_ids))
    return token_ids[:stop]
