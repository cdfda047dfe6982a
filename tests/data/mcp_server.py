"""An MCP server for the tests: `mcp_server.py`, over stdio, or `mcp_server.py http PORT`."""

import os
import subprocess
import sys
import threading
import time
from typing import Literal

from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel, Field

server = MCPServer("tests")
state = {"count": 0}
WIRE = os.dup(1)  # the package keeps what is printed away from the protocol; this goes around it


class Point(BaseModel):
    """A point of the plane."""

    x: int
    y: int = 0


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def far(point: Point, unit: Literal["m", "km"] = "m", names: list[str] | None = None) -> str:
    """Say where a point is."""
    return f"{point.x},{point.y} {unit} {names}"


@server.tool()
def shout(text: str = Field(min_length=1, max_length=20)) -> str:
    """Say it loudly."""
    return text.upper()


@server.tool()
def count() -> int:
    """Count the calls."""
    state["count"] += 1
    return state["count"]


@server.tool()
def fail() -> str:
    """Raise an error."""
    raise ValueError("no such city")


@server.tool()
def big(characters: int) -> str:
    """Say much."""
    return "x" * characters


@server.tool()
def slow(seconds: float) -> str:
    """Take time."""
    time.sleep(seconds)
    return "awake"


@server.tool()
def die() -> str:
    """End the server."""
    print("out of order", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def chatter() -> str:
    """Print to stdout what is no message."""
    print("printed")
    os.write(WIRE, b"hello\n{}\n[1, 2]\n\xff\n")
    return "said"


@server.tool()
def flood() -> str:
    """Write a line that never ends."""
    try:
        while True:
            os.write(WIRE, b"x" * 65536)
    except OSError:
        os._exit(4)


@server.tool()
def variables() -> list[str]:
    """Return the names of the environment variables."""
    return sorted(os.environ)


@server.tool()
def process() -> int:
    """Return the number of the process."""
    return os.getpid()


@server.tool()
def linger() -> list[int]:
    """Stay when the input ends, with a daemon; return the number of both processes."""
    threading.Thread(target=time.sleep, args=(120,)).start()
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(120)"
    daemon = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    daemon.stdout.readline()
    return [os.getpid(), daemon.pid]


if __name__ == "__main__":
    if sys.argv[1:2] == ["http"]:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run("stdio")
