from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from configs.rejuvenation import CRITERIA, RejuvenationConfig
from rejuvenation import transform
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.criteria import DeltaAttribution, Dormancy, EntropyAttribution, GradientMagnitude
from rejuvenation.criteria.weights import neuron_drift
from rejuvenation.neurons import KINDS, NeuronTable
from rejuvenation.pairs import TokenPair
from rejuvenation.scoring import NeuronScorer
from tests.rejuvenation.reference import Reference, Run, Scaling
from tests.rejuvenation.tiny import KINDS_OF_MODEL, moved, save, tiny, token_pairs

PAIR = TokenPair([5, 17, 3, 40], [8, 60, 22, 22, 11, 9, 30])
TARGETS = [0, 2, 5]
POSITIONS = [len(PAIR.prompt_ids) - 1 + target for target in TARGETS]


class Pair:
    """A base, an SFT model moved from it, and their files."""

    def __init__(self, path: Path, architecture: str, tied: bool) -> None:
        self.base = tiny(architecture, 3, tied=tied)
        self.sft = moved(self.base, 1, size=0.3)
        files = [save(self.base, path / "base"), save(self.sft, path / "sft")]
        self.base_dir, self.sft_dir = files
        self.alignment = Alignment(CheckpointReader(files[0]), CheckpointReader(files[1]))
        self.table = NeuronTable.of(self.alignment.sft)
        self.reference = Reference(self.sft)
        self.run = self.reference.run(PAIR.token_ids)

    def of(self, scores: torch.Tensor, layer: int, kind: str) -> torch.Tensor:
        """[..., neurons of one module]."""
        module = next(module for module in self.table.modules if (module.layer, module.kind) == (layer, kind))
        return scores[..., module.neurons]


@pytest.fixture(scope="module", params=KINDS_OF_MODEL, ids=lambda param: f"{param[0]}-{param[1]}")
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), *request.param)


def entropy(reference: Reference, run: Run, t: int, frozen: torch.Tensor | None) -> float:
    """Of the next token, in nats; with `frozen`, the final norm's scale is that constant."""
    scale = reference.scale(run, t) if frozen is None else frozen
    head = reference.weights.get("lm_head.weight", reference.weights["model.embed_tokens.weight"])
    logprobs = (head @ (run.final[t] * scale * reference.weights["model.norm.weight"])).log_softmax(0)
    return float(-(logprobs.exp() * logprobs).sum())


@pytest.mark.parametrize("frozen_norm", [True, False])
def test_entropy_attribution_agrees_with_central_differences(models: Pair, frozen_norm: bool) -> None:
    with NeuronScorer(models.sft, models.table, EntropyAttribution(), frozen_norm=frozen_norm) as scorer:
        scores = scorer.scores(PAIR, TARGETS).scores
    step = 1e-4
    for row, t in enumerate(POSITIONS):
        frozen = models.reference.scale(models.run, t) if frozen_norm else None
        for layer in range(3):
            for kind, index in [("q", 3), ("k", 6), ("v", 12), ("gate", 40), ("up", 7)]:
                at = list(range(t + 1)) if kind in ("k", "v") else [t]
                up, down = (
                    entropy(
                        models.reference,
                        models.reference.run(PAIR.token_ids, Scaling(layer, kind, index, at, factor)),
                        t,
                        frozen,
                    )
                    for factor in (1 + step, 1 - step)
                )
                found = models.of(scores, layer, kind)[row, index].item()
                assert found == pytest.approx(-(up - down) / (2 * step), rel=5e-3, abs=5e-5), (layer, kind, index, t)


def test_entropy_scores_of_writers_take_the_direct_path(models: Pair) -> None:
    """-a_i dH/da_i by differences: a share of the neuron's write is taken from the final residual stream."""
    with NeuronScorer(models.sft, models.table, EntropyAttribution()) as scorer:
        scores = scorer.scores(PAIR, TARGETS).scores
    for row, t in enumerate(POSITIONS):
        scale, final = models.reference.scale(models.run, t), models.run.final[t].clone()
        for layer, kind, index in [(0, "o", 9), (1, "down", 47), (2, "down", 0)]:
            weight = models.reference.weights[f"model.layers.{layer}.{KINDS[kind]}.weight"]
            write = models.run.inputs[layer, kind][t, index] * weight[:, index]
            found = []
            for step in (1e-4, -1e-4):
                models.run.final[t] = final + step * write
                found.append(entropy(models.reference, models.run, t, scale))
            models.run.final[t] = final
            expected = -(found[0] - found[1]) / 2e-4
            assert models.of(scores, layer, kind)[row, index].item() == pytest.approx(expected, rel=5e-3, abs=5e-5)


def test_delta_attribution_is_what_the_change_of_the_weights_adds(models: Pair) -> None:
    """Writers exactly; q, up, gate by differences of the logit with their output moved by a share of the change."""
    with NeuronScorer(models.sft, models.table, DeltaAttribution(), models.alignment) as scorer:
        scores = scorer.scores(PAIR, TARGETS).scores
    base = {name: tensor.double() for name, tensor in models.base.state_dict().items()}
    weights = models.reference.weights
    for row, target in enumerate(TARGETS):
        t, gold = POSITIONS[row], PAIR.response_ids[target]
        scale = models.reference.scale(models.run, t)
        direction = models.reference.direction(scale, gold)
        for layer, kind, index in [(0, "o", 9), (2, "down", 47)]:
            name = f"model.layers.{layer}.{KINDS[kind]}.weight"
            delta = (weights[name] - base[name])[:, index]
            expected = float(models.run.inputs[layer, kind][t, index] * (delta @ direction))
            assert models.of(scores, layer, kind)[row, index].item() == pytest.approx(expected, rel=1e-3, abs=1e-5)
        for layer, kind, index in [(0, "q", 3), (1, "up", 7), (2, "gate", 40), (1, "k", 6), (0, "v", 2)]:
            path = f"model.layers.{layer}.{KINDS[kind]}"
            change = models.run.inputs[layer, kind] @ (weights[f"{path}.weight"] - base[f"{path}.weight"])[index]
            if f"{path}.bias" in weights:
                change = change + (weights[f"{path}.bias"] - base[f"{path}.bias"])[index]
            at = range(t + 1) if kind in ("k", "v") else [t]
            expected = 0.0
            for position in at:  # Scaling multiplies: a factor that adds a small share of the change
                output = float(models.run.outputs[layer, kind][position, index])
                share = 1e-4 * float(change[position]) / output
                up, down = (
                    models.reference.logit(
                        models.reference.run(PAIR.token_ids, Scaling(layer, kind, index, [position], factor)),
                        t,
                        gold,
                        scale,
                    )
                    for factor in (1 + share, 1 - share)
                )
                expected += (up - down) / 2e-4
            found = models.of(scores, layer, kind)[row, index].item()
            assert found == pytest.approx(expected, rel=5e-3, abs=5e-5), (layer, kind, index)


def test_activity_is_that_at_the_targets(models: Pair) -> None:
    with NeuronScorer(models.sft, models.table, Dormancy()) as scorer:
        scores = scorer.scores(PAIR, TARGETS).scores
    for layer, kind in [(0, "q"), (1, "gate"), (2, "v")]:
        expected = models.run.outputs[layer, kind][POSITIONS].abs().float()
        torch.testing.assert_close(models.of(scores, layer, kind), expected, rtol=1e-4, atol=1e-5)
    expected = models.run.inputs[1, "down"][POSITIONS].abs().float()
    torch.testing.assert_close(models.of(scores, 1, "down"), expected, rtol=1e-4, atol=1e-5)
    ranked = Dormancy().rank(torch.tensor([0.0, 2.0, 4.0]))
    assert ranked.tolist() == [0.0, -1.0, -2.0], "the dormant one first"


def test_gradient_magnitude_times_activation_is_attribution_where_nothing_is_summed(models: Pair) -> None:
    found = []
    for criterion in (GradientMagnitude(), Dormancy(), None):
        with NeuronScorer(models.sft, models.table, criterion) as scorer:
            found.append(scorer.scores(PAIR, TARGETS).scores)
    for layer in range(3):
        for kind in ("q", "gate", "up", "o", "down"):
            gradient, activation, attribution = (models.of(scores, layer, kind) for scores in found)
            torch.testing.assert_close(gradient * activation, attribution.abs(), rtol=1e-3, atol=1e-6)


def test_drift_of_a_neuron_is_that_of_its_row_with_bias_or_its_column(models: Pair) -> None:
    drift = neuron_drift(models.alignment, models.table)
    base, sft = models.base.state_dict(), models.sft.state_dict()
    for kind, index in [("q", 5), ("down", 7)]:
        path = f"model.layers.1.{KINDS[kind]}"
        rows = [
            state[f"{path}.weight"][:, index]
            if kind == "down"
            else torch.cat(
                [state[f"{path}.weight"][index], state.get(f"{path}.bias", torch.zeros(0))[index : index + 1]]
            )
            for state in (base, sft)
        ]
        expected = (rows[1] - rows[0]).double().norm() / rows[0].double().norm()
        assert models.of(drift, 1, kind)[index].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_repairs(tmp_path: Path, models: Pair, name: str) -> None:
    pairs = token_pairs(4)
    config = RejuvenationConfig(steps=["fusion.linear", f"reset.{name}"], rho=0.02, target_tokens=3)
    report = transform(models.base_dir, models.sft_dir, tmp_path / "equal", config, pairs, seed=0)
    plain = RejuvenationConfig(rho=0.02, target_tokens=3)
    attribution = transform(models.base_dir, models.sft_dir, tmp_path / "attribution", plain, pairs, seed=0)
    assert report.steps == config.steps
    assert 0 < report.num_reset < report.num_neurons
    if name in ("drift", "dormancy", "gradient_magnitude", "random"):
        assert report.num_reset == attribution.num_reset, "a control of equal size"
        assert report.reconstruction_error == attribution.reconstruction_error
        alone = RejuvenationConfig(steps=config.steps, rho=0.02, equal_size=False)
        needs_none = name in ("drift", "random")
        report = transform(
            models.base_dir, models.sft_dir, tmp_path / "rho", alone, [] if needs_none else pairs, seed=0
        )
        assert report.num_reset == round(0.02 * report.num_neurons)
    if name != "attribution":
        assert report.counts != attribution.counts or name == "delta_attribution"


def test_drift_resets_the_neurons_that_moved_most(tmp_path: Path) -> None:
    base = tiny("qwen2", 0)
    sft = moved(base, 1, size=0.01)
    for layer, kind, index in [(0, "q", 3), (1, "up", 40), (2, "down", 11)]:
        weight = sft.model.layers[layer].get_submodule(KINDS[kind]).weight
        row = weight[:, index] if kind == "down" else weight[index]
        row.mul_(3.0)
    config = RejuvenationConfig(steps=["fusion.linear", "reset.drift"], equal_size=False, rho=0.004, alpha=1.0)
    places = save(base, tmp_path / "base"), save(sft, tmp_path / "sft")
    report = transform(*places, tmp_path / "out", config, seed=0)
    assert report.num_reset == round(0.004 * report.num_neurons) == 3
    out, anchor = (dict(CheckpointReader(tmp_path / name).items()) for name in ("out", "base"))
    assert torch.equal(
        out["model.layers.2.mlp.down_proj.weight"][:, 11], anchor["model.layers.2.mlp.down_proj.weight"][:, 11]
    )
    assert torch.equal(out["model.layers.1.mlp.up_proj.weight"][40], anchor["model.layers.1.mlp.up_proj.weight"][40])
    assert torch.equal(
        out["model.layers.0.self_attn.q_proj.weight"][3], anchor["model.layers.0.self_attn.q_proj.weight"][3]
    )
    assert math.isclose(report.effective_ratio, 3 / report.num_neurons)
