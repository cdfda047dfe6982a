import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.buckets import ALIGNMENT, Bucket, pack, unpack

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64]


def named_tensors(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (f"layer.{number}", torch.randn(shape, generator=generator).mul(9).to(DTYPES[number % len(DTYPES)]))
        for number, shape in enumerate(shapes)
    ]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 7), max_size=3).map(tuple), max_size=8),
    st.integers(1, 2000),
)
def test_unpacked_tensors_equal_the_packed_ones(shapes, bucket_bytes):
    named = named_tensors(shapes)
    found = [pair for bucket in pack(named, bucket_bytes, version=3) for pair in unpack(bucket)]
    assert [name for name, _ in found] == [name for name, _ in named]
    for (_, before), (_, after) in zip(named, found, strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)


def test_buckets_keep_to_their_size_and_larger_tensors_get_their_own():
    named = [("a", torch.zeros(10)), ("b", torch.zeros(10)), ("c", torch.zeros(100)), ("d", torch.zeros(10))]
    buckets = list(pack(named, bucket_bytes=128))
    assert [[entry.name for entry in bucket.entries] for bucket in buckets] == [["a", "b"], ["c"], ["d"]]
    assert [len(bucket.data) for bucket in buckets] == [64 + 40, 400, 40]
    assert [bucket.index for bucket in buckets] == [0, 1, 2]
    assert all(entry.offset % ALIGNMENT == 0 for bucket in buckets for entry in bucket.entries)


def test_pack_copies_each_tensor_before_it_asks_for_the_next():
    shared = torch.zeros(4)

    def reused():
        for value in (1.0, 2.0, 3.0):
            shared.fill_(value)
            yield f"w{value}", shared

    (bucket,) = pack(reused(), bucket_bytes=1 << 20)
    assert [tensor[0].item() for _, tensor in unpack(bucket)] == [1.0, 2.0, 3.0]


def test_flipped_bit_is_found_and_names_bucket_and_version():
    (bucket,) = pack([("w", torch.ones(8))], bucket_bytes=64, version=5)
    data = bucket.data.copy()
    data[3] ^= 1
    with pytest.raises(RuntimeError, match=r"bucket 0 of version 5 .*expected checksum \w+, found \w+"):
        unpack(dataclasses.replace(bucket, data=data))


def test_bucket_of_another_version_or_renamed_tensor_is_found():
    (bucket,) = pack([("w", torch.ones(8))], bucket_bytes=64, version=5)
    with pytest.raises(RuntimeError, match="corrupted"):
        unpack(dataclasses.replace(bucket, version=6))
    renamed = (dataclasses.replace(bucket.entries[0], name="v"),)
    with pytest.raises(RuntimeError, match="corrupted"):
        unpack(dataclasses.replace(bucket, entries=renamed))


def test_message_round_trip_keeps_bucket_and_checksum():
    (bucket,) = pack(named_tensors([(2, 3), (5,)]), bucket_bytes=1 << 20, version=2)
    again = Bucket.from_message(bucket.to_message())
    assert again.checksum == bucket.checksum
    assert [name for name, _ in unpack(again)] == ["layer.0", "layer.1"]


def test_read_only_bytes_unpack_without_a_copy_or_a_warning(recwarn):
    (bucket,) = pack([("w", torch.arange(8.0))], bucket_bytes=64)
    data = np.frombuffer(bucket.data.tobytes(), dtype=np.uint8)
    ((_, tensor),) = unpack(dataclasses.replace(bucket, data=data))
    assert tensor.data_ptr() == data.ctypes.data
    assert not recwarn.list


def test_bucket_size_must_be_positive():
    with pytest.raises(ValueError, match="bucket_bytes must be >= 1, got 0"):
        list(pack([], 0))
