"""What stands before every path of the model server: vLLM itself asks for its key under /v1 and the like only."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import Any

KEY_VARIABLE = "VLLM_API_KEY"
"""Where vLLM, too, finds the server's token: in no command line and in no log."""


class TokenGate:
    """ASGI middleware that answers 401 to whatever does not bring the token, on every path.

    Args:
        app: what it stands before.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._expected = _digest(f"Bearer {os.environ[KEY_VARIABLE]}".encode())

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] not in ("http", "websocket") or self._knows(scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _knows(self, headers: list[tuple[bytes, bytes]]) -> bool:
        given = next((value for name, value in headers if name == b"authorization"), b"")
        return secrets.compare_digest(_digest(given), self._expected)


def _digest(value: bytes) -> bytes:
    """Values of one length, so that comparing them takes the same time whatever was given."""
    return hashlib.sha256(value).digest()
