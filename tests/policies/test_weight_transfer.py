import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from policies.buckets import pack, unpack
from policies.engine import Engine, GenerationRequest
from tests.pico import make_checkpoint, reference_logprobs
from tests.policies.conftest import ENGINE_CONFIG

SEQUENCES = [[3, *range(6, 60), 1, 4, 9, 12, 1], [3, 50, 20, 1, 4, 7], [3, *range(90, 30, -1), 1, 4]]
EMBEDDING = "model.embed_tokens.weight"


def checkpoint(directory):
    return load_file(directory / "model.safetensors")


def moved(weights, seed, names=None):
    """Return the weights with noise on `names` (on all without)."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in weights.items():
        noise = 0.02 * torch.randn(tensor.shape, generator=generator)
        found[name] = tensor + noise if names is None or name in names else tensor
    return found


def send(engine, weights, version, bucket_bytes=30_000):
    engine.update_weights(map(unpack, pack(weights.items(), bucket_bytes, version)), version)


def largest_gap(found, expected):
    return max(
        abs(a - b) for mine, theirs in zip(found, expected, strict=True) for a, b in zip(mine, theirs, strict=True)
    )


def assert_held(engine, weights):
    held = engine.weights()
    assert set(held) == set(weights)
    different = [name for name in weights if not torch.equal(held[name], weights[name].to(held[name].dtype))]
    assert different == []


def test_loaded_weights_read_back_equal_the_checkpoint(engine, pico_dir):
    assert engine.policy_version == 0
    assert_held(engine, checkpoint(pico_dir))


def test_logprobs_follow_five_updates_one_of_the_tied_embedding_alone(engine, pico_dir):
    weights = checkpoint(pico_dir)
    scores = engine.score(SEQUENCES)
    assert largest_gap(scores, reference_logprobs(pico_dir, None, SEQUENCES)) < 1e-3
    for version in range(1, 6):
        weights = moved(weights, seed=version, names={EMBEDDING} if version == 3 else None)
        send(engine, weights, version)
        before, scores = scores, engine.score(SEQUENCES)
        assert largest_gap(scores, before) > 0.1
        assert largest_gap(scores, reference_logprobs(pico_dir, weights, SEQUENCES)) < 1e-3
        assert_held(engine, weights)
        (generation,) = engine.generate([GenerationRequest("g", SEQUENCES[1], 0, 4, 1.0)])
        assert generation.policy_version == engine.policy_version == version


def test_each_tensor_alone_reaches_the_logprobs(engine, pico_dir):
    start = checkpoint(pico_dir)
    send(engine, start, 10)
    before = engine.score(SEQUENCES)
    for name in start:
        send(engine, moved(start, 1, {name}), 11, bucket_bytes=1 << 20)
        bias_of_keys = name.endswith("k_proj.bias")  # adds a term that the softmax nearly cancels: smaller, not zero
        assert largest_gap(engine.score(SEQUENCES), before) > (1e-5 if bias_of_keys else 1e-3), name
    send(engine, start, 12)
    assert largest_gap(engine.score(SEQUENCES), before) == 0


def test_prefix_cache_does_not_survive_an_update(engine, pico_dir):
    start, changed = checkpoint(pico_dir), moved(checkpoint(pico_dir), 5)
    prompt = [3, *[6 + number % 90 for number in range(400)], 1, 4]
    request = GenerationRequest("long", prompt, 0, 4, 0.0)
    send(engine, start, 20)
    engine.generate([request])
    send(engine, changed, 21)
    (generation,) = engine.generate([request])
    sequence = prompt + generation.token_ids
    (expected,) = reference_logprobs(pico_dir, changed, [sequence])
    assert largest_gap([generation.logprobs], [expected[len(prompt) :]]) < 1e-3


def test_corrupted_bucket_is_refused_before_any_weight_is_touched(engine, pico_dir):
    start = checkpoint(pico_dir)
    send(engine, start, 30)
    before = engine.score(SEQUENCES)
    *good, last = pack(moved(start, 6).items(), 30_000, version=31)
    data = last.data.copy()
    data[-1] ^= 1
    with pytest.raises(RuntimeError, match=r"bucket \d+ of version 31 .* expected checksum"):
        engine.update_weights(map(unpack, [*good, dataclasses.replace(last, data=data)]), 31)
    assert engine.policy_version == 30
    assert_held(engine, start)
    assert engine.score(SEQUENCES) == before


def test_incomplete_unknown_or_misshapen_weights_are_refused(engine, pico_dir):
    start = checkpoint(pico_dir)
    send(engine, start, 40)
    without = {name: tensor for name, tensor in start.items() if name != "model.norm.weight"}
    with pytest.raises(RuntimeError, match=r"version 41 .*1 tensors missing \['model.norm.weight'\]"):
        send(engine, without, 41)
    with pytest.raises(RuntimeError, match=r"1 unknown \['extra'\]"):
        send(engine, {**start, "extra": torch.zeros(1)}, 41)
    with pytest.raises(RuntimeError, match=r"model.norm.weight has shape \(3,\), expected \(128,\)"):
        send(engine, {**start, "model.norm.weight": torch.zeros(3)}, 41)
    with pytest.raises(RuntimeError, match="came twice"):
        engine.update_weights([list(start.items()), list(start.items())], 41)
    assert engine.policy_version == 40
    assert_held(engine, start)


def test_update_while_requests_run_is_refused(engine, pico_dir):
    engine.submit(GenerationRequest("running", [3, 9, 1, 4], 0, 20, 1.0))
    with pytest.raises(RuntimeError, match="idle engine"):
        send(engine, checkpoint(pico_dir), 50)
    engine.abort(["running"])


def test_update_that_fails_half_way_makes_the_engine_unusable_until_the_next(engine, pico_dir, monkeypatch):
    from policies import weight_transfer

    def fail(*args, **kwargs):
        raise RuntimeError("lost connection")

    monkeypatch.setattr(weight_transfer, "send", fail)
    with pytest.raises(RuntimeError, match="lost connection"):
        send(engine, checkpoint(pico_dir), 60)
    with pytest.raises(RuntimeError, match=r"version 60 failed half-way: lost connection"):
        engine.score(SEQUENCES)
    monkeypatch.undo()
    send(engine, checkpoint(pico_dir), 61)
    assert engine.score(SEQUENCES)


def test_bfloat16_weights_arrive_exactly_in_a_float32_engine(engine, pico_dir):
    weights = {name: tensor.bfloat16() for name, tensor in moved(checkpoint(pico_dir), 7).items()}
    send(engine, weights, 70)
    assert_held(engine, weights)


def test_tied_lm_head_that_a_checkpoint_stores_again_is_passed_over(engine, pico_dir):
    weights = moved(checkpoint(pico_dir), 8)
    stored_again = {"lm_head.weight": torch.zeros_like(weights[EMBEDDING]), **weights}  # fills a bucket of its own
    send(engine, stored_again, 75)
    assert engine.policy_version == 75
    assert_held(engine, weights)
    assert largest_gap(engine.score(SEQUENCES), reference_logprobs(pico_dir, weights, SEQUENCES)) < 1e-3


def test_untied_engine_without_weights_waits_for_the_first_update(engine, tmp_path):
    engine.close()  # one engine per process at a time; this test is the module's last
    directory = make_checkpoint(tmp_path / "untied", tied=False, seed=3)
    untied = Engine(ENGINE_CONFIG, directory, log_path=tmp_path / "engine.log")
    try:
        with pytest.raises(RuntimeError, match="no weights yet"):
            untied.score(SEQUENCES)
        weights = checkpoint(directory)
        assert "lm_head.weight" in weights
        for version, names in enumerate([None, {"lm_head.weight"}, {EMBEDDING}]):
            weights = moved(weights, version, names)
            send(untied, weights, version)
            assert_held(untied, weights)
            gap = largest_gap(untied.score(SEQUENCES), reference_logprobs(directory, weights, SEQUENCES))
            assert gap < 1e-3
    finally:
        untied.close()


@pytest.mark.slow
def test_engine_in_processes_of_its_own_takes_the_same_updates(tmp_path):
    directory = make_checkpoint(tmp_path / "pico")
    engine = Engine(ENGINE_CONFIG, directory, log_path=tmp_path / "engine.log", in_process=False)
    try:
        weights = moved(checkpoint(directory), 1)
        send(engine, weights, 4)
        assert_held(engine, weights)
        assert largest_gap(engine.score(SEQUENCES), reference_logprobs(directory, weights, SEQUENCES)) < 1e-3
        (generation,) = engine.generate([GenerationRequest("g", SEQUENCES[1], 0, 4, 1.0)])
        assert generation.policy_version == 4
    finally:
        engine.close()
