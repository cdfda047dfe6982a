from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from rejuvenation.diagnostics import batches as batches_module
from rejuvenation.diagnostics.batches import batches_of, text_loss, trainable
from rejuvenation.diagnostics.matrix_free import hutchinson, top_eigenvalue
from rejuvenation.diagnostics.sharpness import hessian_product, loss_increases, sharpness
from tests.rejuvenation.tiny import qwen2, token_pairs

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 4,
    "intermediate_size": 5,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 11,
}
PAIRS = token_pairs(4, vocab=11)


def explicit_hessian(model: torch.nn.Module) -> torch.Tensor:
    """The Hessian of the mean loss by autograd's own `hessian`, from a loss written out pair by pair."""
    named = dict(model.named_parameters())
    sizes = [parameter.numel() for parameter in named.values()]

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts = vector.split(sizes)
        weights = {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}
        total, count = torch.zeros((), dtype=vector.dtype), 0
        for pair in PAIRS:
            logits = functional_call(model, weights, (torch.tensor([pair.token_ids]),)).logits[0]
            logprobs = logits.double().log_softmax(-1)
            for position, token in zip(pair.positions, pair.response_ids, strict=True):
                total, count = total - logprobs[position, token], count + 1
        return total / count

    return torch.autograd.functional.hessian(loss, torch.cat([p.detach().reshape(-1) for p in named.values()]))


def test_products_eigenvalue_and_trace_are_those_of_the_explicit_hessian() -> None:
    model = qwen2(0, **SIZES).double()
    expected = explicit_hessian(model)
    size = len(expected)
    batches = batches_of(PAIRS, 24, CPU)
    assert len(batches) > 1
    with trainable(model) as parameters:
        product = hessian_product(model, parameters, batches)
        columns = torch.stack([product(unit) for unit in torch.eye(size, dtype=torch.float64)])
        found = top_eigenvalue(product, size, 60, 0, torch.float64, CPU)
        probes = hutchinson(product, size, 6, 0, torch.float64, CPU)
    assert torch.allclose(columns, expected, atol=1e-5 * expected.abs().max().item())  # RMSNorm is float32 inside
    assert found.value == pytest.approx(torch.linalg.eigvalsh(expected)[-1].item(), rel=1e-3)
    assert found.residual <= 1e-3
    assert found.products < 60, "it stops when it has converged"
    on_matrix = hutchinson(lambda vector: expected @ vector, size, 6, 0, torch.float64, CPU)
    assert probes == pytest.approx(on_matrix, rel=1e-4)


def test_trace_estimates_are_exact_for_a_diagonal_matrix_and_unbiased_for_any() -> None:
    values = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    assert hutchinson(lambda vector: values * vector, 3, 4, 0, torch.float64, CPU) == pytest.approx([2.5] * 4)
    matrix = torch.tensor([[2.0, 1.0], [1.0, 5.0]], dtype=torch.float64)
    probes = hutchinson(lambda vector: matrix @ vector, 2, 4000, 0, torch.float64, CPU)
    assert set(probes) == {5.0, 9.0}  # 7 - 2 and 7 + 2
    assert sum(probes) / 4000 == pytest.approx(7.0, abs=0.1)


def test_eigenvalue_is_the_largest_even_where_a_negative_one_is_larger_in_magnitude() -> None:
    values = torch.tensor([-9.0, *torch.linspace(-1.0, 2.0, 40), 4.0], dtype=torch.float64)
    found = top_eigenvalue(lambda vector: values * vector, 42, 30, 0, torch.float64, CPU)
    assert found.value == pytest.approx(4.0, rel=1e-4)
    early = top_eigenvalue(lambda vector: values * vector, 42, 3, 0, torch.float64, CPU)
    assert early.products == 3
    assert early.value < 4.0
    assert early.residual > 1e-3
    start = torch.randn(42, generator=torch.Generator().manual_seed(0)).double()
    basis = torch.linalg.qr(torch.stack([start, values * start, values**2 * start], dim=1)).Q
    ritz, inside = torch.linalg.eigh(basis.T @ (values[:, None] * basis))  # the best of the space of three products
    vector = basis @ inside[:, -1]
    assert early.value == pytest.approx(ritz[-1].item())
    assert early.residual == pytest.approx(((values - ritz[-1]) * vector).norm().item() / ritz[-1].item())
    nearest = (values - early.value).abs().min().item()
    assert nearest <= early.residual * abs(early.value) + 1e-9, "an eigenvalue lies within the residual"


def test_eigenvalue_of_a_zero_matrix_is_zero() -> None:
    found = top_eigenvalue(torch.zeros_like, 5, 10, 0, torch.float32, CPU)
    assert (found.value, found.residual, found.products) == (0.0, 0.0, 1)
    broken = top_eigenvalue(lambda vector: vector * float("inf"), 5, 10, 0, torch.float32, CPU)
    assert broken.value != broken.value  # NaN


def test_noise_has_its_size_tensor_by_tensor_and_leaves_no_trace() -> None:
    model = qwen2(0)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    seen: list[dict[str, float]] = []

    def record(*_: object) -> None:
        moved = {name: (parameter - before[name]).norm() for name, parameter in model.named_parameters()}
        seen.append({name: (moved[name] / before[name].norm()).item() for name in before})

    hook = model.model.register_forward_pre_hook(record)
    batches = batches_of(token_pairs(3), 1000, CPU)
    found = loss_increases(model, batches, [0.02, 0.2], 2, seed=5)
    hook.remove()
    assert [list(set(sizes.values())) for sizes in seen[:1]] == [[0.0]]
    for sizes, expected in zip(seen[1:], [0.02, 0.2, 0.02, 0.2], strict=True):
        assert list(sizes.values()) == pytest.approx([expected] * len(sizes), rel=1e-3)
    assert [len(draws) for draws in found] == [2, 2]
    assert found[0][0] != found[0][1]
    assert found == loss_increases(model, batches, [0.02, 0.2], 2, seed=5)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("head_alone", [("qwen2",), ()], ids=["head", "whole model"])
def test_text_loss_is_the_mean_over_response_tokens(
    monkeypatch: pytest.MonkeyPatch, head_alone: tuple[str, ...]
) -> None:
    monkeypatch.setattr(batches_module, "HEAD_ALONE", head_alone)
    model, pairs = qwen2(0), token_pairs(5)
    losses = []
    for pair in pairs:
        logprobs = model(torch.tensor([pair.token_ids])).logits[0].log_softmax(-1)
        losses += [-logprobs[p, t].item() for p, t in zip(pair.positions, pair.response_ids, strict=True)]
    assert text_loss(model, batches_of(pairs, 50, CPU)) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_batches_keep_to_their_bound_and_lose_nothing(batch_tokens: int) -> None:
    pairs = token_pairs(9)
    batches = batches_of(pairs, batch_tokens, CPU, weights=[float(number) for number in range(9)])
    assert all(batch.token_ids.numel() <= batch_tokens or len(batch.token_ids) == 1 for batch in batches)
    assert sum(batch.num_tokens for batch in batches) == sum(len(pair.response_ids) for pair in pairs)
    assert sorted(weight for batch in batches for weight in batch.weights.tolist()) == list(range(9))


def test_sharpness_of_a_sharper_model_is_larger() -> None:
    model = qwen2(0)
    batches = batches_of(token_pairs(3), 1000, CPU)
    settings = {
        "lanczos_iterations": 12,
        "trace_probes": 4,
        "perturbations": [0.05],
        "perturbation_seeds": 3,
        "seed": 0,
    }
    soft = sharpness(model, batches, **settings)
    assert soft == sharpness(model, batches, **settings), "seeded"
    model.model.norm.weight.mul_(3.0)  # as over-confidence on text that is wrong does
    sharp = sharpness(model, batches, **settings)
    assert sharp.loss > soft.loss
    assert sharp.eigenvalue > soft.eigenvalue
    assert sharp.loss_increases[0] > soft.loss_increases[0]
    assert not any(parameter.requires_grad for parameter in model.parameters())
