import json

import pytest

from configs.errors import ConfigError
from orchestrator.console import Console
from orchestrator.conversations import conversations, read_conversations
from orchestrator.parcel import Parcel
from orchestrator.sft import batch_indices, sft_on
from policies.losses import Loss
from tests.orchestrator.fakes import FakeLearners, run_config
from tests.pico import make_tokenizer

TURNS = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]


def test_batches_cover_all_examples_once_per_pass_across_step_borders():
    drawn = [i for step in range(1, 8) for i in batch_indices(7, 3, step, seed=0)]  # 21 = three passes of 7
    passes = [drawn[a : a + 7] for a in (0, 7, 14)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert passes[0] != passes[1]


class FakeWorkers(FakeLearners):
    """Also reads a checkpoint of small files only, and writes down the losses."""

    def __init__(self, files):
        super().__init__()
        self.files, self.losses = files, []

    def check_fits(self, config):
        pass

    def read(self, location):
        return Parcel(self.files, [])

    def load(self, parcel, config):
        pass

    def update(self, samples, loss):
        self.losses.append(loss)
        return super().update(samples, loss)


@pytest.mark.parametrize(("overrides", "name"), [([], "sft"), (["sft.loss=sft"], "sft"), (["sft.loss=dft"], "dft")])
def test_every_optimizer_step_takes_the_loss_of_the_configuration(overrides, name, tmp_path):
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    workers = FakeWorkers({file.name: file.read_bytes() for file in (tmp_path / "tokenizer").iterdir()})
    config = run_config("sft.examples=2", "sft.steps=3", "sft.batch_size=2", "logging.tensorboard=false", *overrides)
    sft_on(config, workers, tmp_path, Console())
    assert workers.losses == [Loss(name)] * 3


def test_unknown_loss_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"sft\.loss must be one of dft, sft, got 'grpo'"):
        run_config("sft.loss=grpo")


def test_batch_larger_than_the_data_goes_round():
    drawn = batch_indices(3, 7, step=1, seed=0)
    assert [sorted(drawn[a : a + 3]) for a in (0, 3)] == [[0, 1, 2]] * 2
    assert len(drawn) == 7


def test_batches_are_a_function_of_step_and_seed():
    assert batch_indices(100, 10, 4, seed=1) == batch_indices(100, 10, 4, seed=1)
    assert batch_indices(100, 10, 4, seed=1) != batch_indices(100, 10, 4, seed=2)


def test_conversations_are_read_with_their_tools_and_blank_lines_skipped(tmp_path):
    file = tmp_path / "data.jsonl"
    line = json.dumps({"messages": TURNS, "tools": [{"name": "look"}]})
    odd = json.dumps({"messages": [{"role": "user", "content": "a\u2028b"}, TURNS[1]]}, ensure_ascii=False)
    file.write_text(f"{line}\n\n{odd}\n", encoding="utf-8")
    first, second = read_conversations(file)
    assert first == (TURNS, [{"name": "look"}])
    assert second[0][0]["content"] == "a\u2028b", "only a newline ends a line"
    assert second[1] is None


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"messages": 3}',
        '{"messages": []}',
        '{"messages": ["hello"]}',
        '{"messages": [{"content": "no role"}]}',
        '{"messages": [{"role": "user", "content": "no answer"}]}',
    ],
)
def test_malformed_line_is_named_by_its_number(line, tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps({"messages": TURNS}) + "\n" + line + "\n")
    with pytest.raises(ConfigError, match=r"sft\.data must hold .*data\.jsonl:2'"):
        read_conversations(file)


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="existing JSONL file"):
        read_conversations(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="at least one conversation"):
        read_conversations(tmp_path / "empty.jsonl")


def test_without_data_the_environment_demonstrates():
    found = conversations(run_config("sft.examples=5"))
    assert len(found) == 5
    for messages, _ in found:
        assert messages[-1]["role"] == "assistant"
    assert len({repr(messages) for messages, _ in found}) == 5


def test_environment_without_demonstrations_needs_data():
    config = run_config("environment.id=tests.orchestrator.fakes:ChainEnv")
    with pytest.raises(ConfigError, match=r"sft\.data must be given: the environment has no demonstrations"):
        conversations(config)
