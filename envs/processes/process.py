"""An environment's process, seen from outside: calls with a time limit, and its end."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from configs.errors import ConfigError
from envs.process_tree import memory_of
from envs.processes import wire

END_S = 10.0
"""Longest that anything waits for a process that is being killed."""
END_BY_ITSELF_S = 1.0
"""Longest that it may take from the end of the connection to the news why the process ended."""
CLOSE_S = 5.0
"""Longest that an environment may take to close itself before it is killed."""
_SHOWN = 2000  # characters of a message that the environment wrote


class EnvironmentFailure(RuntimeError):
    """An environment in a process of its own failed.

    Args:
        status: how its episode ends: `environment_error` or `timed_out`.
        message: what happened, for people.
        place: where in the environment's code, so that it is logged once.
    """

    def __init__(self, status: str, message: str, place: str = "") -> None:
        super().__init__(status, message, place)  # the arguments, so that the error pickles
        self.status = status
        self.message = message
        self.place = place

    def __str__(self) -> str:
        return self.message


class Process(Protocol):
    """What an environment is called through: a process of this machine, or one that a host keeps elsewhere."""

    def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Call the environment.

        Raises:
            EnvironmentFailure: it raised, or its process ended.
            TimeoutError: it had not answered in time, and was killed.
            ConfigError: it raised one.
        """
        ...

    def memory_bytes(self) -> int:
        """Memory of the environment's processes; 0 where they ended. Raises `EnvironmentFailure`: none can tell."""
        ...

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """End it: closed by itself where it is healthy and does so in time, killed with all below it in any case."""
        ...


class EnvironmentProcess:
    """A process of this machine.

    One thread may call it; any other may close it meanwhile, which ends the call.

    Args:
        supervisor: process id of its supervisor.
        control: the supervisor's socket.
        conversation: the environment's socket.
        kill_supervisor: has the supervisor killed, and with it all below it, where it does not end as it was told.
    """

    def __init__(
        self,
        supervisor: int,
        control: socket.socket,
        conversation: socket.socket,
        kill_supervisor: Callable[[], None],
    ) -> None:
        self.supervisor = supervisor
        self._kill_supervisor = kill_supervisor
        self._control = control
        self._conversation = conversation
        self._calling = threading.Lock()
        self._ending = threading.Lock()
        self._healthy = True
        self._reason = ""

    def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """See `Process.call`. After a time-out, or where it ended, the process is killed."""
        deadline = time.monotonic() + timeout_s
        with self._calling:
            try:
                wire.send(self._conversation, {"method": method, "arguments": arguments}, deadline)
                reply = wire.receive(self._conversation, deadline)
            except TimeoutError:
                self.kill()
                raise
            except (OSError, EOFError):
                told = self._told(END_BY_ITSELF_S)  # an order to kill could overtake the news of its end
                self.kill()
                message = f"the environment's process {told or self._end()}"
                raise EnvironmentFailure("environment_error", message) from None
            except (ValueError, TypeError, RecursionError) as error:
                self.kill()
                message = f"the environment's process sent or was to get what is no message: {error}"
                raise EnvironmentFailure("environment_error", message) from None
        return value_of(reply)

    def memory_bytes(self) -> int:
        """See `Process.memory_bytes`."""
        return memory_of(self.supervisor)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """See `Process.close`."""
        if self._healthy and not self._calling.locked():
            with contextlib.suppress(EnvironmentFailure, ConfigError, TimeoutError):
                self.call("close", {}, timeout_s)
        self.kill()
        self._end()
        with self._calling, self._ending:
            self._conversation.close()
            self._control.close()

    def kill(self) -> None:
        """Order the supervisor to kill all; a call under way ends at once."""
        self._healthy = False
        for connection, way in ((self._control, socket.SHUT_WR), (self._conversation, socket.SHUT_RDWR)):
            with contextlib.suppress(OSError):
                connection.shutdown(way)

    def _end(self) -> str:
        """Wait until all is killed; return why it ended."""
        told = self._told(END_S)
        if not told:  # the environment may have stopped its supervisor
            self._kill_supervisor()
            told = self._told(END_S)
        return told or f"was to be killed, and was not gone after {2 * END_S:g} s"

    def _told(self, patience_s: float) -> str:
        """Return why it ended, once the supervisor tells; empty where it does not in time."""
        with self._ending:
            if not self._reason:
                with contextlib.suppress(OSError, ValueError):
                    self._control.settimeout(patience_s)
                    told = self._control.recv(4096)
                    self._reason = str(json.loads(told)) if told else "lost its supervisor, which was killed"
            return self._reason


def value_of(reply: Any) -> Any:
    """Return the value in an environment's reply.

    Raises:
        ConfigError: the environment raised one.
        EnvironmentFailure: the environment raised anything else, or the reply is none.
    """
    match reply:
        case {"value": value}:
            return value
        case {"config": [str(field), str(rule), value, str(fix)]}:
            raise ConfigError(field, rule, value, fix)
        case {"error": str(message), "place": str(place), "traceback": str(traceback)}:
            failure = EnvironmentFailure("environment_error", message[:_SHOWN], place[:_SHOWN])
            failure.add_note(f"in the environment's process:\n{traceback}")
            raise failure
    raise EnvironmentFailure("environment_error", f"the environment's process answered with {str(reply)[:200]}")
