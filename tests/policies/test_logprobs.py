from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from policies.batching import Sample, collate
from policies.logprobs import ScoredPolicy, token_logprobs
from tests.pico import make_checkpoint


def test_worked_example_at_two_temperatures() -> None:
    logits = torch.tensor([[math.log(1.0), math.log(3.0)]])
    logprobs, entropies = token_logprobs(logits, torch.tensor([1]), temperature=1.0)
    assert float(logprobs) == pytest.approx(math.log(0.75))
    assert float(entropies) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    logprobs, _ = token_logprobs(logits, torch.tensor([1]), temperature=0.5)  # squares the odds: 9 to 1
    assert float(logprobs) == pytest.approx(math.log(0.9))


def test_forbidden_token_does_not_spoil_the_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, float("-inf")]])
    _, entropies = token_logprobs(logits, torch.tensor([0]), 1.0)
    assert float(entropies) == pytest.approx(math.log(2))


def test_scores_and_gradients_depend_neither_on_padding_nor_on_pieces(tmp_path: Path) -> None:
    from transformers import Qwen2ForCausalLM

    checkpoint = make_checkpoint(tmp_path)
    samples = [Sample([3, 8, 5, 9, 4], [0, 0, 1, 1, 1]), Sample([7, 2], [0, 1])]

    def run(batches: list[tuple[int, ...]], pieces: int) -> tuple[torch.Tensor, torch.Tensor]:
        model = Qwen2ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        policy = ScoredPolicy(model)
        found = []
        for chosen in batches:
            batch = collate(samples, chosen)
            logprobs, _ = policy(batch.input_ids, batch.positions, batch.targets, 0.9, pieces)
            logprobs.sum().backward()
            found.append(logprobs.detach())
        gradients = [p.grad.flatten() for p in model.parameters()]
        return torch.cat(found), torch.cat(gradients)

    alone, gradient_alone = run([(0,), (1,)], 1)
    for batches, pieces in (([(0, 1)], 1), ([(0, 1)], 4), ([(0, 1)], 7)):  # padded; row by row; three pieces empty
        logprobs, gradient = run(batches, pieces)
        torch.testing.assert_close(logprobs, alone, atol=1e-5, rtol=0)
        assert float((gradient - gradient_alone).norm() / gradient_alone.norm()) < 1e-6


def test_pieces_are_as_many_as_keep_to_the_logits_held_at_once(tmp_path: Path) -> None:
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(make_checkpoint(tmp_path))
    policy = ScoredPolicy(model, logits_per_piece=3 * model.config.vocab_size + 1)
    assert [policy.pieces_needed(positions) for positions in (0, 1, 3, 4, 6, 7)] == [1, 1, 1, 2, 2, 3]
    assert ScoredPolicy(model, logits_per_piece=1).pieces_needed(5) == 5
