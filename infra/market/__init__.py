"""A stand-in for Polygon.io's REST API: real HTTP on loopback, the vendor's wire format, bars without end.

Start one from a shell with ``python -m infra.market``, from Python with
:class:`infra.market.process.MarketProcess`. ``docs/market.md`` describes what it serves.
"""
