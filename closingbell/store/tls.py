"""TLS to databases on other machines, unless the URL says otherwise."""

from __future__ import annotations

from ipaddress import ip_address

import sqlalchemy as sa


def tls_of(url: sa.URL) -> dict[str, str] | None:
    """What to add to the client library's options: ``sslmode=require`` where the way leads over a network.

    It does not where every host is this machine, by a loopback address, by ``localhost`` or by the path of a socket;
    nor where the URL has an ``sslmode`` of its own, or names a service, whose file may have one. The certificate is
    then only looked at by ``verify-ca`` and ``verify-full``, or where ``~/.postgresql/root.crt`` is there.

    Args:
        url: for psycopg2.

    Returns:
        The options to add; None where the URL's hosts and ports cannot be told apart.
    """
    try:
        options = url.get_dialect()().create_connect_args(url)[1]
    except (sa.exc.ArgumentError, ValueError):
        return None
    if "sslmode" in options or "service" in options:
        return {}
    hosts = str(options.get("hostaddr") or options.get("host") or "").split(",")
    return {} if all(map(_is_here, hosts)) else {"sslmode": "require"}


def _is_here(host: str) -> bool:
    """Whether a host is this machine, as far as its name tells; no name is asked for."""
    name = host.strip().strip("[]").rstrip(".").lower()
    if not name or name[0] in "/@" or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False
