from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.neurons import KINDS, NeuronTable
from rejuvenation.pairs import TokenPair
from rejuvenation.scoring import NeuronScorer, Scores, target_tokens
from tests.rejuvenation.reference import Reference, Scaling, head_dim_of
from tests.rejuvenation.tiny import KINDS_OF_MODEL, save, tiny, token_pairs

PAIR = TokenPair([5, 17, 3, 40], [8, 60, 22, 22, 11, 9, 30])
TARGETS = [0, 2, 5]
LAST = 2
WRITER_BIASES = ("o_proj.bias", "down_proj.bias")


@pytest.fixture(params=KINDS_OF_MODEL, ids=[f"{name}-{'tied' if tied else 'untied'}" for name, tied in KINDS_OF_MODEL])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    architecture, tied = request.param
    return tiny(architecture, 3, tied=tied)


@pytest.fixture
def table(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> NeuronTable:
    return NeuronTable.of(CheckpointReader(save(model, tmp_path_factory.mktemp("table"))))


def score(model: torch.nn.Module, table: NeuronTable, pair: TokenPair = PAIR, **settings: bool) -> Scores:
    with NeuronScorer(model, table, **settings) as scorer:
        return scorer.scores(pair, TARGETS)


def of(table: NeuronTable, scores: torch.Tensor, layer: int, kind: str) -> torch.Tensor:
    """[N, neurons of one module]."""
    module = next(module for module in table.modules if (module.layer, module.kind) == (layer, kind))
    return scores[:, module.neurons]


def each_target() -> Iterator[tuple[int, int, int]]:
    """Row, position t and gold token of each target."""
    for row, target in enumerate(TARGETS):
        yield row, len(PAIR.prompt_ids) - 1 + target, PAIR.response_ids[target]


def test_target_tokens_have_the_largest_entropy_gap_whatever_its_sign() -> None:
    gap = torch.tensor([0.1, -0.9, 0.2, 0.5, -0.2])
    assert target_tokens(gap, 2) == [1, 3]
    assert target_tokens(gap, 3) == [1, 2, 3]  # of 0.2 and -0.2 the earlier one
    assert target_tokens(gap, 9) == [0, 1, 2, 3, 4]


def test_logit_is_complete_in_the_residual_stream(model: torch.nn.Module, table: NeuronTable) -> None:
    """Check 4: embedding part, all o and down scores and their biases' share give the logit."""
    reference = Reference(model)
    run = reference.run(PAIR.token_ids)
    result = score(model, table)
    for row, t, gold in each_target():
        direction = reference.direction(reference.scale(run, t), gold)
        embedding = float(run.embedding[t] @ direction)
        writes = torch.cat([of(table, result.scores, layer, kind)[row] for layer in range(3) for kind in ("o", "down")])
        biases = [float(bias @ direction) for name, bias in reference.weights.items() if name.endswith(WRITER_BIASES)]
        absolute = abs(embedding) + writes.abs().sum().item() + sum(map(abs, biases))
        z = reference.logit(run, t, gold)
        assert abs(result.logits[row].item() - z) <= 1e-5 * absolute
        assert abs(embedding + writes.double().sum().item() + sum(biases) - z) <= 1e-5 * absolute
        assert abs(result.reconstructed[row].item() - z) <= 1e-5 * absolute
        assert writes.abs().sum() > 0.1 * absolute, "the writes must matter"


def test_writing_neurons_are_scored_exactly(model: torch.nn.Module, table: NeuronTable) -> None:
    """Eq. 3: input activation times <column, d>, one neuron at a time."""
    reference = Reference(model)
    run = reference.run(PAIR.token_ids)
    result = score(model, table)
    for row, t, gold in each_target():
        direction = reference.direction(reference.scale(run, t), gold)
        for layer, kind, index in [(0, "o", 9), (2, "o", 31), (1, "down", 47), (2, "down", 0)]:
            weight = reference.weights[f"model.layers.{layer}.{KINDS[kind]}.weight"]
            expected = float(run.inputs[layer, kind][t, index] * (weight[:, index] @ direction))
            assert of(table, result.scores, layer, kind)[row, index].item() == pytest.approx(
                expected, rel=1e-4, abs=1e-5
            )


def test_up_equals_down_in_the_last_layer(model: torch.nn.Module, table: NeuronTable) -> None:
    """Check 5."""
    result = score(model, table)
    up, down = (of(table, result.scores, LAST, kind) for kind in ("up", "down"))
    torch.testing.assert_close(up, down, rtol=1e-4, atol=1e-5 * down.abs().max().item())
    assert not torch.allclose(of(table, result.scores, 0, "up"), of(table, result.scores, 0, "down"), rtol=0.1)


def test_gate_is_down_times_the_elasticity_of_silu(model: torch.nn.Module, table: NeuronTable) -> None:
    run = Reference(model).run(PAIR.token_ids)
    result = score(model, table)
    for row, t, _ in each_target():
        g = run.outputs[LAST, "gate"][t].float()
        expected = of(table, result.scores, LAST, "down")[row] * (1 + g * (1 - torch.sigmoid(g)))
        torch.testing.assert_close(of(table, result.scores, LAST, "gate")[row], expected, rtol=1e-3, atol=1e-4)


def per_group(o_like: torch.Tensor) -> torch.Tensor:
    """[N, 4 heads x d] -> [N, 2 KV heads x d]: summed over the query heads 2j and 2j + 1 of KV head j."""
    heads = o_like.chunk(4, 1)
    return torch.cat([heads[0] + heads[1], heads[2] + heads[3]], 1)


def test_v_is_the_o_proj_input_summed_over_its_query_heads(model: torch.nn.Module, table: NeuronTable) -> None:
    """Check 6, first part: gradient x o_proj input by autograd of the frozen-norm logit."""
    result = score(model, table)
    rows = []
    for _, t, gold in each_target():
        kept: dict[str, torch.Tensor] = {}

        def keep(module: object, args: tuple[torch.Tensor, ...], kept: dict[str, torch.Tensor] = kept) -> tuple:
            kept["input"] = args[0].detach().requires_grad_(True)
            return (kept["input"],)

        def final(module: object, args: tuple[torch.Tensor, ...], kept: dict[str, torch.Tensor] = kept) -> None:
            kept["final"] = args[0]

        hooks = [
            model.model.layers[LAST].self_attn.o_proj.register_forward_pre_hook(keep),
            model.model.norm.register_forward_pre_hook(final),
        ]
        model(input_ids=torch.tensor([PAIR.token_ids]))
        for hook in hooks:
            hook.remove()
        stream = kept["final"][0, t]
        scale = torch.rsqrt(stream.detach().pow(2).mean() + model.config.rms_norm_eps)
        logit = (stream * scale * model.model.norm.weight) @ model.lm_head.weight[gold]
        logit.backward()
        rows.append(kept["input"].detach()[0, t] * kept["input"].grad[0, t])
    expected = per_group(torch.stack(rows))
    found = of(table, result.scores, LAST, "v")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    exact = per_group(of(table, result.scores, LAST, "o"))
    assert not torch.allclose(found, exact, rtol=0.1), "with an MLP after it, v differs from the exact o scores"


def test_v_equals_the_exact_o_scores_without_the_mlp(model: torch.nn.Module, table: NeuronTable) -> None:
    """Check 6, second part: that layer's down_proj zeroed."""
    model.model.layers[LAST].mlp.down_proj.weight.zero_()
    result = score(model, table)
    expected = per_group(of(table, result.scores, LAST, "o"))
    torch.testing.assert_close(
        of(table, result.scores, LAST, "v"), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item()
    )


def test_q_and_k_share_their_sum_in_every_kv_group(model: torch.nn.Module, table: NeuronTable) -> None:
    """Check 6, third part: with biases and rotary embedding; with qk-norm, which no scale passes, both are 0."""
    result = score(model, table)
    per_head_q, per_head_k = (of(table, result.scores, LAST, kind).unflatten(1, (2, -1)) for kind in ("q", "k"))
    q, k = per_head_q.sum(2), per_head_k.sum(2)
    if model.config.model_type == "qwen3":
        width = head_dim_of(model.config)
        for per_head in (per_head_q, per_head_k):
            heads = per_head.unflatten(2, (-1, width))
            assert (heads.sum(3).abs() <= 1e-4 * heads.abs().sum(3)).all()
        return
    torch.testing.assert_close(q, k, rtol=1e-3, atol=1e-5 * k.abs().max().item())
    assert k.abs().min() > 1e-3 * k.abs().max(), "the sums must not be zero by themselves"
    assert not torch.allclose(k[:, 0], k[:, 1], rtol=0.1)


@pytest.mark.parametrize("frozen_norm", [True, False])
def test_gradient_scores_agree_with_central_differences(
    model: torch.nn.Module, table: NeuronTable, frozen_norm: bool
) -> None:
    """Check 7: the derivative of the logit in a factor on the neuron's output, in float64."""
    reference = Reference(model)
    plain = reference.run(PAIR.token_ids)
    result = score(model, table, frozen_norm=frozen_norm)
    step = 1e-4
    for row, t, gold in each_target():
        frozen = reference.scale(plain, t) if frozen_norm else None
        for layer in range(3):
            for kind, index in [("q", 3), ("q", 29), ("k", 6), ("k", 15), ("v", 1), ("v", 12), ("gate", 40), ("up", 7)]:
                positions = list(range(t + 1)) if kind in ("k", "v") else [t]
                up, down = (
                    reference.logit(
                        reference.run(PAIR.token_ids, Scaling(layer, kind, index, positions, factor)), t, gold, frozen
                    )
                    for factor in (1 + step, 1 - step)
                )
                found = of(table, result.scores, layer, kind)[row, index].item()
                assert found == pytest.approx((up - down) / (2 * step), rel=2e-3, abs=2e-5), (layer, kind, index, t)


def test_later_tokens_never_change_scores(model: torch.nn.Module, table: NeuronTable) -> None:
    """Check 7, second part: a later target keeps the later tokens in the forward pass."""
    other = TokenPair(PAIR.prompt_ids, [*PAIR.response_ids[:3], 50, 2, 44, 1])
    first, second = score(model, table), score(model, table, other)
    torch.testing.assert_close(first.scores[:2], second.scores[:2], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(first.scores[2], second.scores[2], rtol=0.1)


def test_targets_scored_together_equal_targets_scored_alone(model: torch.nn.Module, table: NeuronTable) -> None:
    together = score(model, table)
    with NeuronScorer(model, table) as scorer:
        alone = torch.cat([scorer.scores(PAIR, [target]).scores for target in TARGETS])
    torch.testing.assert_close(together.scores, alone, rtol=1e-4, atol=1e-5)


def test_no_hook_stays_on_the_model(model: torch.nn.Module, table: NeuronTable) -> None:
    score(model, table)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_weights_that_overflow_are_named(model: torch.nn.Module, table: NeuronTable) -> None:
    model.model.layers[1].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(RuntimeError, match="not finite"):
        score(model, table, token_pairs(1)[0])
