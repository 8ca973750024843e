"""The morning's look: whether the night brought what it should have, said loudly where not."""

from __future__ import annotations

from typing import Annotated, Any, Final

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from closingbell import morning as mornings
from closingbell import universe as universes
from closingbell.errors import ClosingbellError
from flows.form import HOW, WHAT, WHOSE, Ticker, Timeframe, Universe, grouped
from tasks import morning as steps
from tasks.resources import opened

#: What a person does about it.
FIX: Final = "See the last runs of the deployment nightly. closingbell retry all asks for what is missing."


@grouped({WHOSE: ["universe", "tickers"], WHAT: ["timeframes"], HOW: ["wait_minutes", "always"]})
@flow(name="morning")
def morning(
    universe: Universe | None = None,
    tickers: list[Ticker] | None = None,
    timeframes: list[Timeframe] | None = None,
    wait_minutes: Annotated[int, Field(ge=0, le=600)] = 60,
    always: bool = False,
) -> State[Any]:
    """Fail where the last session that should be published is not stored, so that someone is told. Makes no call.

    Args:
        universe: Whose bars. Empty: those of the deployment nightly.
        tickers: These instead of the universe. Empty: those of the deployment nightly.
        timeframes: Of the bars. Empty: those of the deployment nightly, 1d unless changed.
        wait_minutes: How long to wait for a nightly run, or a retry, that is late or under way.
        always: Look also where the schedule of the deployment nightly is off.
    """
    nightly = steps.nightly()
    if not (nightly.scheduled or always):
        return Completed(message="the nightly schedule is off: there is nothing to look for")
    asked = nightly.parameters
    try:
        over = steps.wait_for_the_night(wait_minutes)
        names = universes.resolve(
            universe or asked.get("universe", "sp500+etfs"), tickers or (None if universe else asked.get("tickers"))
        )
        with opened() as resources:
            found = mornings.look(
                resources.store.records,
                resources.settings.source_of(asked.get("source")),
                names,
                timeframes or asked.get("timeframes") or ("1d",),
                resources.clock.now(),
            )
    except ClosingbellError as error:
        return Failed(message=str(error))
    get_run_logger().info(str(found))
    if found.complete:
        return Completed(message=str(found))
    waited = "" if over else f" A run is under way still, after {wait_minutes} minutes."
    return Failed(message=f"{found}.{waited} {FIX}")
