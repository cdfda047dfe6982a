import json

import pytest

from configs.model import ShapeConfig
from orchestrator.placement import Node
from orchestrator.plan import batch_arithmetic, evaluation, memory, report, size
from tests.orchestrator.fakes import run_config

SHAPE = ShapeConfig(
    hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=16, vocab_size=10, tied_embeddings=True
)


def test_batch_arithmetic_of_a_worked_example():
    config = run_config(
        "algorithm.steps=5",
        "algorithm.prompts_per_step=10",
        "algorithm.group_size=4",
        "algorithm.minibatches=2",
        "learner.ranks=3",
        "learner.micro_batch_tokens=700",
        "rollout.workers=3",
        "rollout.max_model_len=200",
        "rollout.max_tokens=50",
        "evaluation.samples=7",
        "evaluation.k=4",
        "evaluation.sets=[{name: a, tasks: 20}, {name: b, tasks: 30}]",
    )
    found = dict(batch_arithmetic(config))
    assert found["sequences per step"] == "40 = 10 x 4"
    assert found["sequences per rollout worker"] == "at most 16"  # 4 of 10 groups
    assert found["optimizer steps per step"] == "2, of 20 sequences"
    assert found["optimizer steps in all"] == "at most 10"
    # 700 tokens hold 3 sequences of 200: 20 sequences are 7 micro-batches, at most 3 on one of 3 ranks
    assert found["micro-batches per rank"] == "at most 3 per optimizer step, of 700 tokens"
    assert found["longest episode"] == "200 tokens, 50 per turn"
    assert found["sequences in all"] == "200"
    assert found["evaluation episodes"] == "400 each time"  # 50 tasks, 1 greedy and 7 sampled each


def test_evaluation_episodes_of_every_set_and_in_all():
    config = run_config(
        "evaluation.samples=7",
        "evaluation.k=4",
        "evaluation.sets=[{name: a, tasks: 20}, {name: tool, kind: ood, environment: rejuvenate/Lookup-v0, tasks: 30, "
        "sampled_tasks: 10, samples: 3, k: 2}]",
    )
    assert dict(batch_arithmetic(config))["evaluation episodes"] == "220 each time"
    assert evaluation(config) == [
        ("a", "in distribution, rejuvenate/Arithmetic-v0: 160 episodes = 20 greedy + 20 x 7 sampled"),
        ("tool", "out of distribution, rejuvenate/Lookup-v0: 60 episodes = 30 greedy + 10 x 3 sampled"),
    ]
    text, _ = report(config, SHAPE, [Node(2, 0)], "declared")
    assert "# evaluation\n  a     in distribution" in text
    assert "# evaluation" not in report(run_config(), SHAPE, [Node(2, 0)], "declared")[0]


def test_memory_of_float32_and_of_bfloat16_under_zero_3():
    count = SHAPE.num_parameters
    found = dict(memory(run_config("rollout.dtype=bfloat16"), SHAPE))
    assert found["learner rank, weights + gradients + optimizer"] == size(16 * count)  # 4 + 4 + 8 bytes
    assert found["engine, weights per device"] == size(2 * count)
    config = run_config("learner.ranks=4", "learner.zero_stage=3", "learner.dtype=bfloat16")
    found = dict(memory(config, SHAPE))
    assert found["learner rank, weights + gradients + optimizer"] == size(4 * count)  # (2 + 2 + 12) / 4
    assert found["one publication"] == size(2 * count)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (2048 << 30, "2048.0 GiB")],
)
def test_sizes_for_people(count, text):
    assert size(count) == text


def test_report_says_what_is_short_and_where_the_cluster_comes_from():
    text, short = report(run_config("learner.cpus=2"), SHAPE, [Node(2, 0)], "declared")
    assert "1 CPUs short" in short
    assert "does not fit" in text
    assert "cluster (declared): 2 CPUs and 0 GPUs on 1 node(s)" in text
    text, short = report(run_config(), SHAPE, [Node(2, 0)], "this machine")
    assert short is None
    assert text.endswith("fits")
    assert "learner-0: 1 CPUs, 0 GPUs" in text


def test_inline_run_needs_no_placement():
    text, short = report(run_config("launcher=inline"), SHAPE, [Node(1, 0)], "this machine")
    assert short is None
    assert "all in this process" in text


def test_user_model_is_counted_where_its_checkpoint_is_at_hand(tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape |= {"intermediate_size": 16, "vocab_size": 10, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"], **shape}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    given = ["user_model.dtype=bfloat16", "user_model.cpus=0.5"]
    config = run_config(f"user_model.checkpoint={tmp_path}", *given)
    row = "user model, weights per device"
    assert dict(memory(config, SHAPE))[row] == size(2 * SHAPE.num_parameters)
    assert row not in dict(memory(run_config("user_model.checkpoint=org/name"), SHAPE))
    text, short = report(config, SHAPE, [Node(2.5, 0)], "declared")
    assert short is None
    assert "user-model: 0.5 CPUs, 0 GPUs" in text
    assert "in all: 2.5 CPUs, 0 GPUs" in text
    text, short = report(config, SHAPE, [Node(2, 0)], "declared")
    assert "0.5 CPUs short" in short
    text, _ = report(run_config("launcher=inline", "user_model.checkpoint=org/name"), SHAPE, [Node(1, 0)], "declared")
    assert "all in this process (launcher: inline), the user model in processes of its own" in text
