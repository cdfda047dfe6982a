from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from configs.rejuvenation import RejuvenationConfig
from rejuvenation import memory, pipeline, reset_set, scored_model, transform
from rejuvenation.alignment import Alignment
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.neurons import NeuronTable
from rejuvenation.pairs import TokenPair
from rejuvenation.scored_model import entropies, map_deterministically
from tests.rejuvenation.tiny import moved, qwen2, save, token_pairs

PAIRS = token_pairs(4)


@pytest.fixture
def two_threads() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def written_out(model: torch.nn.Module, pair: TokenPair) -> torch.Tensor:
    """-sum p log p at the positions that predict the response, from the model's own logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([pair.token_ids])).logits[0].double()
    p = logits[len(pair.prompt_ids) - 1 : -1].softmax(1)
    return torch.where(p > 0, -(p * p.log()), 0.0).sum(1).float()


@pytest.mark.parametrize("where", ["base", "sft"])
def test_checkpoint_that_gives_nan_is_named(tmp_path: Path, where: str) -> None:
    models = {"base": qwen2(0), "sft": moved(qwen2(0), 1)}
    models[where].model.norm.weight[0] = float("nan")
    paths = [save(model, tmp_path / name) for name, model in models.items()]
    with pytest.raises(ValueError, match=f"the {where} checkpoint gives no finite entropy"):
        transform(*paths, tmp_path / "out", RejuvenationConfig(steps=["fusion.linear"]), PAIRS, seed=0)
    assert not (tmp_path / "out").exists()


def test_token_that_can_never_come_has_no_share_in_the_entropy() -> None:
    model = qwen2(0, tied=False)
    bias = torch.zeros(61)
    bias[:7] = float("-inf")
    model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    for found, pair in zip(entropies(model, PAIRS), PAIRS, strict=True):
        torch.testing.assert_close(found, written_out(model, pair), rtol=1e-5, atol=1e-6)


def test_logits_are_computed_in_chunks_of_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = qwen2(0)
    pair = TokenPair([1, 2, 3], list(range(4, 15)))
    whole = entropies(model, [pair])[0]
    rows: list[int] = []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[-2]))
    monkeypatch.setattr(scored_model, "ENTROPY_POSITIONS", 4)
    chunked = entropies(model, [pair])[0]
    assert rows == [4, 4, 3]
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole, written_out(model, pair), rtol=1e-5, atol=1e-6)


def test_logits_that_a_model_scales_after_its_head_keep_their_scale() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = GraniteForCausalLM(GraniteConfig(vocab_size=61, **shape, logits_scaling=0.05, pad_token_id=0)).eval()
    for found, pair in zip(entropies(model, PAIRS), PAIRS, strict=True):
        torch.testing.assert_close(found, written_out(model, pair), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("item_bytes", "most"), [(0, 3), (100, 3), (200, 2), (400, 1), (10**9, 1)])
def test_as_many_items_run_at_once_as_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch, item_bytes: int, most: int
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 800)
    running, seen, lock = [0], [0], threading.Lock()

    def item(number: int) -> tuple[int, int]:
        with lock:
            running[0] += 1
            seen[0] = max(seen[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        return number, torch.get_num_threads()

    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = map_deterministically(item, range(9), torch.device("cpu"), item_bytes=item_bytes)
    finally:
        torch.set_num_threads(threads)
    assert found == [(number, 1) for number in range(9)]
    assert seen[0] == most


def test_every_stage_says_how_much_memory_a_pair_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    base, sft = save(qwen2(0), tmp_path / "base"), save(moved(qwen2(0), 1), tmp_path / "sft")
    needed: list[int] = []

    def how_many_fit(item_bytes: int, most: int) -> int:
        needed.append(item_bytes)
        return most

    monkeypatch.setattr(scored_model, "how_many_fit", how_many_fit)
    long = TokenPair(list(range(60)), [1] * 40)
    for number, pairs in enumerate((PAIRS, [*PAIRS, long])):
        transform(base, sft, tmp_path / f"{number}", RejuvenationConfig(), pairs, seed=0)
    short, longer = needed[:5], needed[5:]  # the entropies of four checkpoints, and the attribution
    assert min(short) > 0
    assert all(b > 3 * a for a, b in zip(short, longer, strict=True))
    assert max(longer) == longer[2] > 3 * longer[0], "the attribution keeps every layer"


def test_memory_that_is_left_is_known() -> None:
    assert 1 << 20 < memory.available_bytes() < 1 << 50


def test_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert 1 << 20 < memory.available_bytes() < 1 << 50


def test_votes_are_summed_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pair's votes, one number per neuron of the model, outlive its turn."""
    base, sft = save(qwen2(0), tmp_path / "base"), save(moved(qwen2(0), 1), tmp_path / "sft")
    kept: list[object] = []
    plain = reset_set.map_deterministically

    def keeping(*args: object, **kwargs: object) -> list[object]:
        results = plain(*args, **kwargs)
        kept.extend(results)
        return results

    monkeypatch.setattr(reset_set, "map_deterministically", keeping)
    transform(base, sft, tmp_path / "out", RejuvenationConfig(), PAIRS, seed=0)
    assert len(kept) == len(PAIRS)
    assert all(isinstance(result, float) for result in kept)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_memory_is_given_back(tmp_path: Path) -> None:
    base, sft = save(qwen2(0), tmp_path / "base"), save(moved(qwen2(0), 1), tmp_path / "sft")
    alignment = Alignment(CheckpointReader(base), CheckpointReader(sft))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    config = RejuvenationConfig(device="cuda")
    table = NeuronTable.of(alignment.sft)
    pipeline.measure(alignment, config, table, PAIRS, seed=0, clock=pipeline.Clock())
    assert torch.cuda.memory_reserved() <= before + (16 << 20)  # what libraries keep for themselves
