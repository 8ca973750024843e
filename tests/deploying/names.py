"""Names of environment variables that mean something to what runs in the image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from prefect.settings.legacy import _get_valid_setting_names
from prefect.settings.models.root import Settings as PrefectSettings

from closingbell.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGE: Final = ROOT / "infra" / "image"

OURS: Final = {name.upper() for name in Settings.model_fields}
PREFECTS: Final = {
    *_get_valid_setting_names(PrefectSettings),
    "PREFECT_SERVER_ENCRYPTION_KEY",  # prefect.server.utilities.encryption reads it by itself
    "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES",  # of prefect-kubernetes
}

#: Those that the entrypoint also takes from a file.
FROM_FILES: Final = set(
    (re.search(r'^NAMES="([^"]+)"', (IMAGE / "entrypoint.sh").read_text(), re.MULTILINE) or [""] * 2)[1].split()
)


def meant(name: str) -> bool:
    """Whether closingbell, Prefect or the entrypoint reads a variable of this name."""
    name = name.removesuffix("_FILE") if name.removesuffix("_FILE") in FROM_FILES else name
    return name in OURS | PREFECTS
