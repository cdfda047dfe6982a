"""A connection to an MCP server for callers in ordinary threads; the protocol runs in one event loop of the process."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

from mcp import Client, MCPError
from mcp_types import CallToolResult, Tool

from envs.mcp_tools.settings import ServerConfig
from envs.mcp_tools.transports import State, http, pipes

MOST_TOOLS = 128
_PAGES = 20
_GRACE_S = 5.0  # what ending may take beyond the limit on the work itself
_CLOSED = ("Connection closed", "Session terminated")  # the package's messages; their codes are those of servers, too

Value = TypeVar("Value")


class ServerGone(RuntimeError):
    """The server does not start, has ended, or cannot be reached."""


class CallFailed(RuntimeError):
    """The server refused a call, or gave no answer in time; the connection goes on."""


class Connection:
    """One session with a server. It is opened when it is first needed, and again after it was closed.

    Args:
        config: the server.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.calls = 0
        """Calls since the session was opened."""
        self._client: Client | None = None
        self._stop: asyncio.Event | None = None
        self._running: asyncio.Task[None] | None = None
        self._state = State()
        _OPEN.add(self)

    def __reduce__(self) -> tuple[type[Connection], tuple[ServerConfig]]:
        return Connection, (self.config,)  # a copy has a session of its own

    def __del__(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the session end, without waiting for it."""
        if self._running is not None and self._stop is not None:
            loop().call_soon_threadsafe(self._stop.set)

    def list_tools(self) -> list[Tool]:
        """Return what the server offers.

        Raises:
            ServerGone: the server does not start, does not answer, or lists tools without end.
        """
        limit_s = self.config.start_timeout_s
        self.open()
        try:
            return self._do(self._list(), limit_s, "to tools/list")
        except Exception as error:  # a refusal, no answer in time, or a list that is none
            self.close()
            raise ServerGone(f"{self.config.where} does not list its tools: {error}{self._last_words()}") from error

    def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool.

        Raises:
            CallFailed: it refused, or took longer than `call_timeout_s`.
            ServerGone: it is gone; the next call opens another session.
        """
        self.open()
        self.calls += 1
        assert self._client is not None
        try:
            limit_s = self.config.call_timeout_s
            work = self._client.call_tool(name, arguments, read_timeout_seconds=limit_s + _GRACE_S)
            return self._do(work, limit_s, f"of {name}")
        except CallFailed:
            raise
        except MCPError as error:
            if not (self._state.ended or error.message in _CLOSED):
                raise CallFailed(error.message) from error
            self.close()
            raise ServerGone(f"{self.config.where} ended during a call of {name}{self._last_words()}") from error
        except Exception as error:  # a result that is none, or not of the tool's own schema
            raise CallFailed(f"the result of {name} cannot be read ({type(error).__name__})") from error

    def open(self) -> None:
        """Open a session, unless there is one.

        Raises:
            ServerGone: the server does not start, or does not answer in time.
        """
        if self._state.ended:
            self.close()
        if self._running is not None and not self._running.done():
            return
        self._state, self.calls = State(), 0
        opened: concurrent.futures.Future[Client] = concurrent.futures.Future()
        starting = asyncio.run_coroutine_threadsafe(self._start(opened), loop())
        try:
            running = starting.result(_GRACE_S)
        except TimeoutError as error:
            raise RuntimeError(f"the event loop of MCP connections was busy for {_GRACE_S:g} s") from error
        try:
            self._client = opened.result(self.config.start_timeout_s)
        except Exception as error:  # what the start of a server may raise: no program, no answer, another protocol
            loop().call_soon_threadsafe(running.cancel)
            self._running = running
            self.close()
            said = "no answer in time" if isinstance(error, TimeoutError) else _in_words(error)
            waited = f"within start_timeout_s={self.config.start_timeout_s:g} s"
            raise ServerGone(f"{self.config.where} does not start {waited}: {said}{self._last_words()}") from error
        self._running = running

    def close(self) -> None:
        """End the session and the server's process; does nothing where there is none."""
        running, stop, self._running, self._client = self._running, self._stop, None, None
        if running is None or running.done():
            return
        ended = asyncio.run_coroutine_threadsafe(_ended(running, stop), loop())
        with contextlib.suppress(TimeoutError):
            ended.result(2 * _GRACE_S)

    async def _start(self, opened: concurrent.futures.Future[Client]) -> asyncio.Task[None]:
        """Start the task that holds the session from its first to its last moment, as its scopes demand."""
        self._stop = asyncio.Event()
        return asyncio.get_running_loop().create_task(_hold(self.config, self._state, opened, self._stop))

    async def _list(self) -> list[Tool]:
        assert self._client is not None
        tools: list[Tool] = []
        cursor = None
        for _ in range(_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if len(tools) > MOST_TOOLS:
                break
            if cursor is None:
                return tools
        raise CallFailed(f"it has more than {MOST_TOOLS} tools, or more than {_PAGES} pages of them")

    def _do(self, work: Coroutine[Any, Any, Value], limit_s: float, what: str) -> Value:
        """Do work in the event loop, and wait for it."""
        waiting = asyncio.run_coroutine_threadsafe(_limited(work, limit_s), loop())
        try:
            return waiting.result(limit_s + _GRACE_S)
        except TimeoutError as error:
            waiting.cancel()
            raise CallFailed(f"no answer {what} within {limit_s:g} seconds") from error

    def _last_words(self) -> str:
        said = self._state.said.strip()
        return f". It said: {said}" if said else "."


async def _hold(
    config: ServerConfig, state: State, opened: concurrent.futures.Future[Client], stop: asyncio.Event
) -> None:
    """Hold a session until `stop`; it does not know the connection, so that one that nobody needs can go."""
    transport = http(config) if config.url is not None else pipes(config, state)
    client = Client(transport, read_timeout_seconds=config.start_timeout_s + _GRACE_S, cache=None)
    try:
        async with client:
            opened.set_result(client)
            await stop.wait()
    except BaseException as error:
        if opened.done():
            return  # the end of a server is seen by the calls
        opened.set_exception(error if isinstance(error, Exception) else RuntimeError("it was cancelled"))


async def _limited(work: Coroutine[Any, Any, Value], limit_s: float) -> Value:
    return await asyncio.wait_for(work, limit_s)


async def _ended(running: asyncio.Task[None], stop: asyncio.Event | None) -> None:
    """Ask the session's task to end, and cancel it where it does not."""
    if stop is not None:
        stop.set()
    done, _ = await asyncio.wait([running], timeout=0.01 if stop is None else _GRACE_S)
    if not done:
        running.cancel()
        await asyncio.wait([running], timeout=_GRACE_S)


def _in_words(error: BaseException) -> str:
    """Return what went wrong; of a group its first part."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}
_LOOPS_LOCK = threading.RLock()  # the end of a connection may come in the middle of anything


def loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all connections of this process; it runs in a thread of its own."""
    with _LOOPS_LOCK:
        made = _LOOPS.get(os.getpid())  # a process that was forked has no such thread yet
        if made is None:
            made = _LOOPS[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=made.run_forever, name="mcp", daemon=True).start()
        return made


_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """Close every connection: no server outlives this process."""
    connections = list(_OPEN)
    for connection in connections:
        connection.stop()  # all at once, and only then wait for each
    for connection in connections:
        connection.close()
