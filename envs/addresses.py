"""Which texts of a configuration are addresses that requests can go to."""

from __future__ import annotations

from urllib.parse import urlsplit


def is_address(text: str, *, query: bool) -> bool:
    """Whether a text is an http or https address without credentials.

    Args:
        text: any.
        query: whether it may have a query; not where paths are appended to it.
    """
    try:
        address = urlsplit(text)
        port_is_valid = address.port is None or address.port > 0
    except ValueError:  # no number as the port, or one that is too large; half of an IPv6 address
        return False
    extra = address.username is not None or address.password is not None or address.fragment
    allowed = not extra and (query or not address.query)
    return allowed and address.scheme in ("http", "https") and bool(address.hostname) and port_is_valid
