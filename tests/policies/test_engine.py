import dataclasses
import random
import subprocess
import sys

import pytest
import torch

from configs.rollout import RolloutConfig
from policies.engine import GenerationRequest, _start
from tests.pico import EOS, make_tokenizer, reference_logprobs

EOS_ID = make_tokenizer().convert_tokens_to_ids(EOS)


def requests(count, *, temperature=1.0, max_tokens=32, prefix="r", **settings):
    """`count` requests of their own prompts and seeds; request i is the same whatever `count` is."""
    found = []
    for number in range(count):
        prompt = [3, *random.Random(number).choices(range(6, 100), k=5 + number % 7), 1, 4]
        found.append(GenerationRequest(f"{prefix}{number}", prompt, number, max_tokens, temperature, **settings))
    return found


def largest_gap(found, expected):
    return max(
        abs(a - b) for mine, theirs in zip(found, expected, strict=True) for a, b in zip(mine, theirs, strict=True)
    )


def reference(pico_dir, generations, temperature=1.0):
    sequences = [generation.prompt_token_ids + generation.token_ids for generation in generations]
    whole = reference_logprobs(pico_dir, None, sequences, temperature)
    return [row[len(generation.prompt_token_ids) :] for row, generation in zip(whole, generations, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_logprobs_are_those_of_the_tempered_distribution(engine, pico_dir, temperature):
    generations = engine.generate(requests(12, temperature=temperature))
    found = [generation.logprobs for generation in generations]
    assert largest_gap(found, reference(pico_dir, generations, temperature)) < 1e-3
    assert largest_gap(found, reference(pico_dir, generations, 1.2 * temperature)) > 1e-2  # so the bound can fail


def test_logprobs_under_top_k_are_renormalized_over_what_could_be_sampled(engine, pico_dir):
    generations = engine.generate(requests(12, top_k=3))
    full = reference(pico_dir, generations)
    assert all(
        mine >= theirs - 1e-4
        for generation, row in zip(generations, full, strict=True)
        for mine, theirs in zip(generation.logprobs, row, strict=True)
    )
    assert max(-logprob for generation in generations for logprob in generation.logprobs) < 4  # of three candidates
    assert max(-logprob for row in full for logprob in row) > 2


def test_greedy_takes_the_likeliest_token(engine, pico_dir):
    (generation,) = engine.generate(requests(1, temperature=0.0, max_tokens=8))
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pico_dir, dtype=torch.float32)
    token_ids = list(generation.prompt_token_ids)
    for token_id in generation.token_ids:
        with torch.no_grad():
            assert model(torch.tensor([token_ids])).logits[0, -1].argmax().item() == token_id
        token_ids.append(token_id)


def test_sampled_end_of_turn_is_in_the_token_ids_with_its_logprob(engine):
    generations = engine.generate(requests(64, max_tokens=200))
    stopped = [generation for generation in generations if generation.finish_reason == "stop"]
    cut = [generation for generation in generations if generation.finish_reason == "length"]
    assert stopped
    assert cut
    assert len(stopped) + len(cut) == 64
    for generation in generations:
        assert len(generation.logprobs) == len(generation.token_ids)
        assert EOS_ID not in generation.token_ids[:-1]
    assert all(generation.token_ids[-1] == EOS_ID for generation in stopped)
    assert all(generation.token_ids[-1] != EOS_ID and len(generation.token_ids) == 200 for generation in cut)


def test_tokens_depend_on_the_seed_and_not_on_the_batch(engine):
    many = requests(200)
    in_batch = {generation.request_id: generation for generation in engine.generate(many)}
    few = engine.generate(requests(7))
    backwards = engine.generate(list(reversed(many)))
    assert [generation.token_ids for generation in few] == [in_batch[g.request_id].token_ids for g in few]
    assert [generation.token_ids for generation in backwards] == [in_batch[g.request_id].token_ids for g in backwards]
    other = engine.generate([dataclasses.replace(request, seed=request.seed + 1000) for request in many[:7]])
    assert [generation.token_ids for generation in other] != [generation.token_ids for generation in few]


def test_more_prompts_than_fit_into_one_step_are_sampled_with_their_seeds(engine):
    prompt = [3, *random.Random(0).choices(range(6, 100), k=150), 1, 4]
    long = [GenerationRequest(f"long{number}", prompt, number, 4, 1.0) for number in range(100)]
    together = engine.generate(long)
    alone = engine.generate(long[:3])
    assert [generation.token_ids for generation in together[:3]] == [generation.token_ids for generation in alone]


def test_requests_may_join_while_others_run(engine):
    first, second = requests(2, max_tokens=24)
    expected = {generation.request_id: generation.token_ids for generation in engine.generate([first, second])}
    engine.submit(first)
    found = [generation for _ in range(5) for generation in engine.step()]
    engine.submit(second)
    assert engine.has_unfinished
    while engine.has_unfinished:
        found += engine.step()
    assert {generation.request_id: generation.token_ids for generation in found} == expected


def test_scores_are_the_logprobs_of_given_tokens(engine, pico_dir):
    sequences = [[3, 9, 1, 4, 10], [3, *range(6, 100), 1]]
    scores = engine.score(sequences)
    assert [len(row) for row in scores] == [5, 96]
    assert largest_gap(scores, reference_logprobs(pico_dir, None, sequences)) < 1e-3


def test_aborted_requests_never_come_back(engine):
    stay, leave = requests(2, max_tokens=100)
    engine.submit(stay)
    engine.submit(leave)
    engine.step()
    engine.abort([leave.request_id])
    found = []
    while engine.has_unfinished:
        found += engine.step()
    assert [generation.request_id for generation in found] == [stay.request_id]


def test_waiting_is_bounded_and_names_what_it_waits_for(engine):
    config = engine.config
    engine.config = dataclasses.replace(config, timeout_s=1e-9)
    try:
        with pytest.raises(RuntimeError, match=r"timeout_s.*3 of 3 generations.*'slow0'"):
            engine.generate(requests(3, prefix="slow", max_tokens=100))
    finally:
        engine.config = config
    assert not engine.has_unfinished
    assert len(engine.generate(requests(2))) == 2


def test_prompt_that_leaves_no_room_is_refused_and_a_long_turn_is_cut_at_the_models_length(engine):
    with pytest.raises(ValueError, match=r"prompt of 512 tokens .*rollout.max_model_len 512"):
        engine.submit(GenerationRequest("full", [5] * 512, 0, 8, 1.0))
    with pytest.raises(ValueError, match="max_tokens 0"):
        engine.submit(GenerationRequest("none", [5], 0, 0, 1.0))
    (generation,) = engine.generate([GenerationRequest("cut", [5] * 510, 0, 8, 1.0)])
    assert len(generation.token_ids) <= 2


def test_vllm_logs_into_the_given_file_and_leaves_torch_its_thread_count(engine):
    assert "Initializing a V1 LLM engine" in engine.log_path.read_text()
    assert torch.get_num_threads() == engine.config.threads
    torch.set_num_threads(2)  # vLLM's CPU worker replaces this function by a warning
    assert torch.get_num_threads() == 2
    torch.set_num_threads(engine.config.threads)


def test_importing_the_engine_imports_neither_vllm_nor_transformers():
    code = "import sys, policies.engine; sys.exit(bool({'vllm', 'transformers', 'deepspeed'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize(("tensor_parallel", "backend"), [(1, None), (2, "mp")])
def test_engine_over_several_gpus_runs_in_processes_of_its_own_and_not_in_ray_s(
    pico_dir, monkeypatch, tensor_parallel, backend
):
    from vllm.v1.engine.llm_engine import LLMEngine

    monkeypatch.setattr(LLMEngine, "from_engine_args", lambda args: args)
    config = RolloutConfig(device="cuda", tensor_parallel=tensor_parallel)
    args = _start(config, str(pico_dir), load_weights=False)
    assert (args.tensor_parallel_size, args.distributed_executor_backend) == (tensor_parallel, backend)
