"""Which way leads over a network, where others can read along, and which does not."""

from __future__ import annotations

from ipaddress import ip_address


def is_here(host: str) -> bool:
    """Whether a host is this machine, as far as its name tells; no name is asked for."""
    name = host.strip().strip("[]").rstrip(".").lower()
    if not name or name[0] in "/@" or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False
