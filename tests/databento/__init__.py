"""Databento's gateway for tests: local, over TLS, speaking DBN."""
