"""The two ways to an MCP server, each with a limit on what is read from it: the pipes of a process, and HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from envs.mcp_tools.settings import ServerConfig
from envs.process_tree import GRACE_S, PATIENCE_S, guarded

END_S = 1.0
"""Time that a process gets to end by itself after its stdin was closed."""
_LAST_WORDS = 1000


@dataclass(slots=True)
class State:
    """What is known of a server's process."""

    said: str = ""
    """The end of what it wrote to stderr."""
    ended: bool = False
    """Whether it has ended, or said too much."""


@contextlib.asynccontextmanager
async def pipes(config: ServerConfig, state: State) -> AsyncIterator[tuple[Any, Any]]:
    """Start the server's process and connect to its pipes: one JSON message a line.

    Unlike the package's own, it reads no line beyond `max_message_bytes`: the connection then ends. On the way out the
    process and all that it started are ended, within about two seconds; also where this process ends in any way.

    Args:
        config: the server.
        state: is kept up to date.

    Yields:
        The streams that `mcp.Client` takes.
    """
    process = await asyncio.create_subprocess_exec(
        *guarded([str(config.command), *config.args]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=config.variables(),
        cwd=config.cwd,
        limit=config.max_message_bytes,
        start_new_session=True,
    )
    inward, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    sent, outward = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read, process, inward, state)
            group.start_soon(_write, process, outward, inward)
            group.start_soon(_listen, process, state)
            try:
                yield received, sent
            finally:
                group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
        for stream in (inward, received, sent, outward):
            stream.close()


async def _read(process: asyncio.subprocess.Process, inward: Any, state: State) -> None:
    """Pass the process's messages on until it ends or says too much; then the client sees the connection end."""
    assert process.stdout is not None
    with inward, contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, ValueError):
        # a line that is too long raises ValueError
        while line := await process.stdout.readline():
            with contextlib.suppress(ValueError):  # no message: a server that prints to stdout
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                await inward.send(SessionMessage(message))
    state.ended = True


async def _write(process: asyncio.subprocess.Process, outward: Any, inward: Any) -> None:
    """Pass the client's messages on."""
    assert process.stdin is not None
    try:
        async for message in outward:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            process.stdin.write(text.encode() + b"\n")
            await process.stdin.drain()
    except (OSError, anyio.ClosedResourceError):
        inward.close()  # it reads no more: nobody should wait for its answers


async def _listen(process: asyncio.subprocess.Process, state: State) -> None:
    """Read stderr, so that the process does not wait for it."""
    assert process.stderr is not None
    while data := await process.stderr.read(4096):
        state.said = (state.said + data.decode("utf-8", "replace"))[-_LAST_WORDS:]


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the server: close its stdin, then have its guard end it, which nothing of it survives."""
    assert process.stdin is not None
    process.stdin.close()
    for number, patience_s in ((None, END_S), (signal.SIGTERM, GRACE_S + PATIENCE_S), (signal.SIGKILL, END_S)):
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        for _ in range(int(patience_s / 0.02)):  # not wait(), which waits for whoever inherited the pipes, too
            if process.returncode is not None:
                break
            await asyncio.sleep(0.02)
        if process.returncode is not None:
            break
    transport = getattr(process, "_transport", None)  # else its pipes stay open while anybody holds their other ends
    if transport is not None:
        transport.close()


@contextlib.asynccontextmanager
async def http(config: ServerConfig) -> AsyncIterator[tuple[Any, Any]]:
    """Connect to a server over streamable HTTP.

    Args:
        config: the server.

    Yields:
        The streams that `mcp.Client` takes.
    """
    token = config.token()
    client = httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {token}"} if token else None,
        timeout=httpx2.Timeout(config.start_timeout_s, read=max(config.start_timeout_s, config.call_timeout_s)),
        transport=_Limited(config.max_message_bytes),
        trust_env=False,
    )
    async with (
        client,
        streamable_http_client(
            str(config.url), http_client=client, max_sse_event_size=config.max_message_bytes
        ) as streams,
    ):
        yield streams


class _Limited(httpx2.AsyncBaseTransport):
    """An HTTP transport that reads no more than so many bytes of an answer (of an event stream, of one event)."""

    def __init__(self, limit: int) -> None:
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)
        self._limit = limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; answers that are no event stream are cut off at the limit."""
        response = await self._inner.handle_async_request(request)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = _LimitedStream(response.stream, self._limit)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _LimitedStream(httpx2.AsyncByteStream):
    """The body of an answer, up to a limit."""

    def __init__(self, inner: Any, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body's parts."""
        left = self._limit
        async for part in self._inner:
            left -= len(part)
            if left < 0:
                raise httpx2.ReadError(f"the answer is longer than {self._limit} bytes")
            yield part

    async def aclose(self) -> None:
        """Close the answer."""
        await self._inner.aclose()
