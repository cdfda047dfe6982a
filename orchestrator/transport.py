"""Where buckets of weights are put by a publisher and fetched by a receiver.

A transport is two functions: `put(bucket) -> handle` and `get(handle, timeout_s) -> bucket`. Buckets carry their
version and checksum (`policies.buckets`); `unpack` verifies it on the receiving side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from policies.buckets import Bucket, pack, unpack


class Transport(Protocol):
    """Moves buckets between processes."""

    def put(self, bucket: Bucket) -> Any:
        """Store a bucket and return a handle that can be sent to other processes."""
        ...

    def get(self, handle: Any, timeout_s: float) -> Bucket:
        """Fetch a bucket.

        Raises:
            RuntimeError: it did not come within `timeout_s`.
        """
        ...


class ObjectStoreTransport:
    """Ray's object store: one object per bucket, shared memory on one node, a pull over the network between nodes."""

    def put(self, bucket: Bucket) -> Any:
        """Store a bucket; it lives as long as a handle to it does."""
        import ray

        return [ray.put(bucket)]  # in a list: a bare reference as an argument would be fetched before the call

    def get(self, handle: Any, timeout_s: float) -> Bucket:
        """Fetch a bucket; see `Transport.get`."""
        import ray

        try:
            return ray.get(handle[0], timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise RuntimeError(
                f"a bucket of weights did not arrive from the object store in {timeout_s:.0f} s"
            ) from None


class InProcessTransport:
    """For `launcher: inline`: the handle is the bucket."""

    def put(self, bucket: Bucket) -> Any:
        """Return the bucket itself."""
        return bucket

    def get(self, handle: Any, timeout_s: float) -> Bucket:
        """Return the bucket itself."""
        return handle


def publish(transport: Transport, named: Iterable[tuple[str, Any]], bucket_bytes: int, version: int) -> list[Any]:
    """Pack tensors into buckets of at most `bucket_bytes` and put each: the handles, in order."""
    return [transport.put(bucket) for bucket in pack(named, bucket_bytes, version)]


def receive(transport: Transport, handles: Iterable[Any], timeout_s: float) -> Iterator[list[tuple[str, Any]]]:
    """Fetch bucket after bucket; one is held at a time.

    Args:
        transport: the one that published.
        handles: of the buckets, in the order of their publication.
        timeout_s: longest to wait for one bucket.

    Yields:
        The names and tensors of one bucket; the tensors are to be read only.

    Raises:
        RuntimeError: a bucket did not come in time, or does not match its checksum.
    """
    for handle in handles:
        yield unpack(transport.get(handle, timeout_s))
