"""The bootstrap as a flow, to be run from the UI, and the reason why `prefect deploy --all` works on a bare server.

``prefect deploy`` refuses a deployment whose work pool does not exist, and it looks before it runs any build
step; all that it does earlier is load the flow. prefect.yaml therefore lists this one first, and taking the flow
from this module, by its name ``bootstrap``, creates the pool. Importing the module does nothing.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow

from deployments import bootstrap as bootstrapping


@flow(name="bootstrap")
def _flow() -> list[str]:
    """Create the work pool, the quota's limit and the database's type of block; change nothing that exists."""
    said = bootstrapping.bootstrap(bootstrapping.settings_of_runs())
    for line in said:
        logging.getLogger("prefect.flow_runs").info(line)
    return said


def __getattr__(name: str) -> Any:
    if name != "bootstrap":
        raise AttributeError(f"module {__name__} has no {name}")
    bootstrapping.step()
    return _flow
