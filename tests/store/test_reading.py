"""What was written is read back, value for value."""

from __future__ import annotations

import numpy as np
from blocks import FIRST, LAST, answered, bars, days, range_of, start

from closingbell.bars import NO_TRADES, Bars
from closingbell.store import Store


def test_bars_come_back_as_they_went_in(store: Store) -> None:
    blocks = {ticker: bars(ticker, days(0, 9), shift) for ticker, shift in (("BRK.B", 1.0), ("AAPL", 5.0))}
    blocks["AAPL"].rows["vwap"][3], blocks["AAPL"].rows["trades"][4] = np.nan, NO_TRADES
    store.writer.flush(
        start(store), "polygon", "1d", [answered(range_of(t, days(0, 9)), block) for t, block in blocks.items()]
    )
    back = store.records.series("polygon", "1d", ("AAPL", "NONE", "BRK.B"), FIRST, LAST)
    whole = Bars.concat([blocks["AAPL"], blocks["BRK.B"]])
    assert back.tickers == ("AAPL", "NONE", "BRK.B")
    for name in back.rows.dtype.names or ():
        expected = whole.rows[name] * 2 if name == "ticker" else whole.rows[name]
        np.testing.assert_array_equal(back.rows[name], expected)


def test_only_the_sessions_asked_for(store: Store) -> None:
    store.writer.flush(
        start(store), "polygon", "1d", [answered(range_of("AAPL", days(0, 9)), bars("AAPL", days(0, 9)))]
    )
    back = store.records.series("polygon", "1d", ("AAPL",), days(2, 2)[0].item(), days(4, 4)[0].item())
    np.testing.assert_array_equal(back.rows["session"], days(2, 4))
    assert not len(store.records.series("polygon", "1m", ("AAPL",), FIRST, LAST))
    assert not len(store.records.series("polygon", "1d", (), FIRST, LAST))
