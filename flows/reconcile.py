"""What is stored, held against what the vendor says now: all of it, or a sample that is asked for the other way."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from closingbell import request
from closingbell.errors import ConfigurationError
from closingbell.store.records import as_run_id
from flows import night
from flows.form import FIRST, HOW, WHEN, WHOSE, BatchSize, Day, Ticker, grouped
from tasks.resources import Resources
from tasks.threads import threads


@grouped(
    {
        FIRST: ["dry_run"],
        WHOSE: ["tickers"],
        WHEN: ["start", "end"],
        "How much": ["sample", "minutes"],
        HOW: ["batch_size"],
    }
)
@flow(name="reconcile", task_runner=threads())
def reconcile(
    tickers: list[Ticker] | None = None,
    start: Day | None = None,
    end: Day | None = None,
    sample: Annotated[int, Field(ge=0, le=1_000)] = 5,
    minutes: Annotated[int, Field(ge=0, le=100)] = 0,
    batch_size: BatchSize | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Hold stored bars against the vendor's present ones. What differs is rewritten, and the old values are kept.

    Args:
        tickers: Only these. Empty: every ticker that is stored.
        start: First date. Empty: the first one stored.
        end: Last date. Empty: the last one stored.
        sample: Fetch so many tickers whole, by range, and so many sessions whole, by market day. 0: fetch everything.
        minutes: Hold so many daily bars against their own minutes, one call each.
        batch_size: Calls in one task. Empty: the setting BATCH_SIZE.
        dry_run: Only show the plan, and make no call.
    """

    def ask(resources: Resources) -> request.Request:
        records, source = resources.store.records, resources.settings.source
        names = tuple(tickers or records.tickers(source, "1d"))
        stored = records.span(source, "1d", names)
        if stored is None:
            raise ConfigurationError(
                "nothing of this is stored", value=", ".join(names[:8]) or None, fix="closingbell ingest stores bars."
            )
        first, last = start or stored.first, end or stored.last
        if first > last:
            raise ConfigurationError("the start is after the end", value=f"{first}..{last}", fix="Exchange them.")
        return request.Request(
            names,
            first,
            last,
            source=source,
            gaps_only=True,
            compare=True,
            sample=sample,
            minutes=minutes,
            seed=as_run_id(flow_run.id).int & 0xFFFFFFFF,
        )

    return night.run("reconcile", ask, batch_size, dry_run=dry_run)
