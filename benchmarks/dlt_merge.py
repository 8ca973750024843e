"""Loads a parquet file with dlt's merge and prints the seconds; run by its own interpreter, imports nothing of ours."""

from __future__ import annotations

import os
import sys
import time

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["RUNTIME__LOG_LEVEL"] = "CRITICAL"

import dlt
from pyarrow import parquet

file, kind, home = sys.argv[1:]
table = parquet.read_table(file)
rows = table.to_pylist() if kind == "dicts" else None
key = ("ticker", "timeframe", "ts")


@dlt.resource(name="bar", primary_key=key, write_disposition={"disposition": "merge", "strategy": "upsert"})
def bars():  # type: ignore[no-untyped-def]
    """All of them: in blocks of dicts, or as the Arrow table."""
    if rows is None:
        yield table
    else:
        for first in range(0, len(rows), 10_000):
            yield rows[first : first + 10_000]


pipeline = dlt.pipeline("bench", pipelines_dir=home, destination="postgres", dataset_name=f"dlt_{kind}")
begun = time.perf_counter()
pipeline.run(bars()).raise_on_failed_jobs()
print(time.perf_counter() - begun)
