from dataclasses import replace

import pytest
import torch

from orchestrator.parcel import read_small_files, write_small_files
from orchestrator.transport import InProcessTransport, publish, receive

NAMED = [
    ("a", torch.arange(6.0).view(2, 3)),
    ("b", torch.tensor([1.5, -2.0], dtype=torch.bfloat16)),
    ("c", torch.ones(40)),
]


def test_what_is_published_is_received_bit_for_bit_in_order():
    transport = InProcessTransport()
    handles = publish(transport, iter(NAMED), bucket_bytes=100, version=7)
    assert len(handles) == 2, "a (24 bytes) and b share a bucket, c (160 bytes) has its own"
    assert [h.version for h in handles] == [7, 7]
    found = [pair for bucket in receive(transport, handles, 1.0) for pair in bucket]
    assert [name for name, _ in found] == ["a", "b", "c"]
    for (_, sent), (_, got) in zip(NAMED, found, strict=True):
        assert got.dtype == sent.dtype
        assert torch.equal(got, sent)


def test_publisher_may_overwrite_a_tensor_once_the_next_is_asked_for():
    shared = torch.zeros(3)

    def named():
        for value in (1.0, 2.0):
            shared.fill_(value)
            yield f"w{value:g}", shared

    transport = InProcessTransport()
    found = dict(pair for bucket in receive(transport, publish(transport, named(), 1000, 0), 1.0) for pair in bucket)
    assert found["w1"].tolist() == [1.0] * 3
    assert found["w2"].tolist() == [2.0] * 3


def test_changed_bytes_are_refused_with_bucket_version_and_checksums():
    transport = InProcessTransport()
    handles = publish(transport, iter(NAMED), bucket_bytes=100, version=7)
    data = handles[1].data.copy()
    data[5] ^= 1
    handles[1] = replace(handles[1], data=data)
    received = receive(transport, handles, 1.0)
    next(received)
    with pytest.raises(RuntimeError, match=r"bucket 1 of version 7 .* expected checksum \w+, found \w+"):
        next(received)


def test_small_files_travel_and_weights_and_code_stay(tmp_path):
    source = tmp_path / "checkpoint"
    source.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "modeling_evil.py"):
        (source / name).write_bytes(name.encode())
    files = read_small_files(source)
    assert files == {"config.json": b"config.json", "tokenizer.json": b"tokenizer.json"}
    target = write_small_files(files, tmp_path / "there" / "policy")
    assert read_small_files(target) == files


def test_parcel_writes_no_other_file_names(tmp_path):
    with pytest.raises(AssertionError):
        write_small_files({"../../evil": b""}, tmp_path)
