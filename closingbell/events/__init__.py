"""Detectors over stored bars: what they find is an event, kept with what it was computed from."""

from __future__ import annotations

from typing import Final

from closingbell.errors import ConfigurationError
from closingbell.events.base import Detector
from closingbell.events.triangles import Triangles

__all__ = ["DETECTORS", "Detector", "Triangles", "detector"]

#: Every detector by its name, as it is unless somebody gives it other parameters.
DETECTORS: Final[dict[str, Detector]] = {found.name: found for found in (Triangles(),)}


def detector(name: str) -> Detector:
    """The detector of a name.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in DETECTORS:
        raise ConfigurationError(
            "there is no such detector", value=repr(name), fix=f"Use one of {', '.join(sorted(DETECTORS))}."
        )
    return DETECTORS[name]
