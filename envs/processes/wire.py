"""What crosses between a process and an environment's: a length of four bytes, and so many bytes of JSON."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import numpy as np

MAX_BYTES = 32 << 20
"""Longest message; a longer one is an error of whoever sends it."""


def send(connection: socket.socket, message: Any, deadline: float | None = None) -> None:
    """Send a message; numbers and arrays of numpy go as plain ones.

    Raises:
        TypeError: something that JSON does not hold.
        ValueError: it is too long.
        TimeoutError: the other side had not taken it by `deadline` (`time.monotonic`).
    """
    body = json.dumps(message, default=_plain).encode()
    if len(body) > MAX_BYTES:
        raise ValueError(f"a message of {len(body):,} bytes is too long: {MAX_BYTES:,} are allowed")
    _limit(connection, deadline)
    connection.sendall(len(body).to_bytes(4, "big") + body)


def receive(connection: socket.socket, deadline: float | None = None) -> Any:
    """Receive a message.

    Raises:
        EOFError: the other side ended.
        ValueError, RecursionError: what came is no message.
        TimeoutError: it had not come by `deadline` (`time.monotonic`).
    """
    size = int.from_bytes(_exactly(connection, 4, deadline), "big")
    if size > MAX_BYTES:
        raise ValueError(f"a message of {size:,} bytes is too long: {MAX_BYTES:,} are allowed")
    return json.loads(_exactly(connection, size, deadline))


def _exactly(connection: socket.socket, size: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        _limit(connection, deadline)
        piece = connection.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError("the connection was closed")
        data += piece
    return bytes(data)


def _limit(connection: socket.socket, deadline: float | None) -> None:
    """Bound the next operation."""
    if deadline is not None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)


def _plain(value: Any) -> Any:
    """A value that JSON does not hold, as one that it does."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(
        f"{type(value).__name__} is no plain JSON (dict, list, str, int, float, bool), and nothing else leaves an "
        "environment's process"
    )
