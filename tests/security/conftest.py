from tests.night.conftest import nights

__all__ = ["nights"]
