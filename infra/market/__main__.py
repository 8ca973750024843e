"""``python -m infra.market``: the same command as ``closingbell market``."""

from infra.market.command import market

market(prog_name="python -m infra.market")
