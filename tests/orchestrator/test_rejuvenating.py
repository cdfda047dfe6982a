import json

import pytest
import torch
from safetensors.torch import save_file

from configs.environment import EnvironmentConfig
from configs.errors import ConfigError
from configs.model import ModelConfig
from configs.rejuvenation import RejuvenationConfig
from envs.arithmetic import ArithmeticEnv
from orchestrator.rejuvenating import RejuvenationWorker, read_tensors
from orchestrator.transport import InProcessTransport, receive
from tests.pico import make_checkpoint

TASKS = f"the training tasks of {__name__}"


class Unsolved(ArithmeticEnv):
    """Has no expert."""

    demonstration = None


def checkpoint(folder, name, value):
    """A directory with one weight and small files that tell where they come from."""
    directory = folder / name
    directory.mkdir()
    for file in ("config.json", "tokenizer.json"):
        (directory / file).write_text(json.dumps({"of": name}))
    save_file({"w": torch.full((2,), value)}, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize(
    ("start", "of", "value"), [("base", "base", 1.0), ("sft", "sft", 2.0), ("rejuvenated", "sft", 3.0)]
)
def test_small_files_are_those_of_the_checkpoint_whose_weights_are_shipped(start, of, value, tmp_path):
    base, sft = checkpoint(tmp_path, "base", 1.0), checkpoint(tmp_path, "sft", 2.0)
    output = checkpoint(tmp_path, "output", 3.0)
    (output / "report.json").write_text("{}")  # made before: as when a run resumes
    transport = InProcessTransport()
    worker = RejuvenationWorker(transport, 1000)
    model = ModelConfig(str(base), str(sft), start)
    parcel = worker.prepare(model, RejuvenationConfig(), EnvironmentConfig("unused"), str(output), seed=0)
    assert {json.loads(content)["of"] for content in parcel.files.values()} == {of}
    assert parcel.files == worker.files(model), "engines are set up with the same"
    ((name, tensor),) = [pair for bucket in receive(transport, parcel.handles, 1.0) for pair in bucket]
    assert (name, tensor.tolist()) == ("w", [value, value])


def write(directory, **files):
    for name, value in files.items():
        save_file({name: torch.tensor([value])}, directory / f"{name}.safetensors")


def found(directory):
    return {name: tensor.item() for name, tensor in read_tensors(str(directory))}


def index(directory, weight_map):
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_index_says_which_files_are_shards(tmp_path):
    write(tmp_path, a=1.0, b=2.0, adapter=9.0)
    index(tmp_path, {"a": "a.safetensors", "b": "b.safetensors"})
    assert found(tmp_path) == {"a": 1.0, "b": 2.0}


def test_single_file_comes_before_others_beside_it(tmp_path):
    write(tmp_path, model=1.0, adapter=9.0)
    assert found(tmp_path) == {"model": 1.0}


def test_only_file_may_have_any_name(tmp_path):
    write(tmp_path, weights=1.0)
    assert found(tmp_path) == {"weights": 1.0}


def test_missing_shard_is_named(tmp_path):
    write(tmp_path, a=1.0)
    index(tmp_path, {"a": "a.safetensors", "b": "b.safetensors"})
    with pytest.raises(ConfigError, match=r"b\.safetensors is missing"):
        found(tmp_path)


def test_several_files_without_an_index_are_refused(tmp_path):
    write(tmp_path, a=1.0, b=2.0)
    with pytest.raises(ConfigError, match="2 in "):
        found(tmp_path)


@pytest.mark.parametrize(
    ("environment", "note"),
    [
        (EnvironmentConfig("rejuvenate/Arithmetic-v0"), "4 of 4 from the demonstrations of rejuvenate/Arithmetic-v0"),
        (EnvironmentConfig(f"{__name__}:Unsolved"), f"the SFT checkpoint to 4 of 4 prompts of {TASKS}:Unsolved"),
    ],
)
def test_the_report_says_where_calibration_pairs_come_from(environment, note, tmp_path):
    base, sft = make_checkpoint(tmp_path / "base"), make_checkpoint(tmp_path / "sft", seed=1)
    worker = RejuvenationWorker(InProcessTransport(), 1_000_000)
    config = RejuvenationConfig(calibration_pairs=4, target_tokens=2)
    model = ModelConfig(str(base), str(sft), "rejuvenated")
    parcel = worker.prepare(model, config, environment, str(tmp_path / "out"), seed=0)
    assert any(note in said for said in parcel.report["notes"]), parcel.report["notes"]
    assert parcel.report["num_reset"] > 0
