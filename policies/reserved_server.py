"""vLLM's own server at a port that is reserved for this user: `python -m policies.reserved_server`, vLLM's arguments.

vLLM lets several of its processes share a port (SO_REUSEPORT) only where one server is several of them. Here it shares
the port with the socket that reserves it.
"""

from __future__ import annotations

from typing import Any


def main() -> None:
    """Run what `vllm serve` runs; that command itself wants a distribution called vllm, which the CPU build is not."""
    from vllm.entrypoints.launchers.api_server import entry

    set_up = entry.setup_server

    def at_shared_port(args: Any, *, reuse_port: bool) -> Any:
        return set_up(args, reuse_port=True)

    entry.setup_server = at_shared_port
    entry.main()


if __name__ == "__main__":
    main()
