from __future__ import annotations

from collections import Counter

import torch
from transformers import GenerationConfig

from rejuvenation.diagnostics.rollouts import sample, until_end
from rejuvenation.diagnostics.token_entropy import TokenEntropy
from tests.rejuvenation.tiny import qwen2

ENDS = list(range(20))
SETTINGS = {"end_ids": ENDS, "max_new_tokens": 6, "batch_size": 7, "seed": 1}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [0, 21], [30]]  # token 0 also pads


def test_rollouts_end_with_the_first_end_token_or_at_the_limit() -> None:
    model = qwen2(0)
    rollouts = sample(model, PROMPTS, 20, **SETTINGS)
    assert [len(of_prompt) for of_prompt in rollouts] == [20, 20, 20]
    responses = [rollout.response_ids for of_prompt in rollouts for rollout in of_prompt]
    assert all(rollout.prompt_ids == PROMPTS[place] for place in range(3) for rollout in rollouts[place])
    assert all(not set(ENDS) & set(ids[:-1]) and (ids[-1] in ENDS or len(ids) == 6) for ids in responses)
    assert any(ids[-1] in ENDS and 1 < len(ids) < 6 for ids in responses)
    assert any(ids[-1] not in ENDS for ids in responses)
    assert until_end([1, 9, 3], [3, 9]) == [1, 9]


def test_seed_decides_and_the_global_random_state_is_untouched() -> None:
    model = qwen2(0)
    state = torch.random.get_rng_state()
    first = sample(model, PROMPTS, 4, **SETTINGS)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert sample(model, PROMPTS, 4, **SETTINGS) == first
    assert sample(model, PROMPTS, 4, **{**SETTINGS, "seed": 2}) != first


def test_samples_follow_the_models_own_distribution_whatever_its_generation_config_says() -> None:
    model = qwen2(0)
    model.generation_config = own = GenerationConfig(top_k=1, repetition_penalty=9.0, temperature=0.1)
    count = 3000
    settings = {**SETTINGS, "max_new_tokens": 1, "batch_size": 3 * count}  # short prompts are padded to the longest
    rollouts = sample(model, PROMPTS, count, **settings)
    for prompt, of_prompt in zip(PROMPTS, rollouts, strict=True):
        expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        found = Counter(rollout.response_ids[0] for rollout in of_prompt)
        shares = torch.tensor([found[token] / count for token in range(len(expected))])
        distance = 0.5 * (shares - expected).abs().sum().item()
        noise = 0.5 * (2 / torch.pi * expected * (1 - expected) / count).sqrt().sum().item()  # its expectation
        assert distance < 1.5 * noise
    assert model.generation_config is own


def test_response_stops_where_the_models_positions_end() -> None:
    model = qwen2(0, max_position_embeddings=9)
    rollouts = sample(model, [[1, 2, 4, 5]], 3, end_ids=[], max_new_tokens=50, batch_size=3, seed=0)
    assert [len(rollout.response_ids) for rollout in rollouts[0]] == [5, 5, 5]


def test_entropy_summary() -> None:
    found = TokenEntropy.of(torch.tensor([0.0, 0.1, 0.6, 2.0, 0.2, 0.0, 0.0, 0.0, 0.0, 1.0]))
    assert torch.tensor([found.mean, found.high_share, found.top_mean]).allclose(torch.tensor([0.39, 0.3, 1.5]))
    assert found.num_tokens == 10
