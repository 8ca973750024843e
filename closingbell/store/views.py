"""What is derived, never stored: adjusted prices, what was known when, total return, histories over renames.

Each is a view, or a function of an instant that the planner opens up like one, or, where there are no such functions,
a view of an instant that the reader has put into a table. All of them are made of a few pieces, so that a split means
the same in every place and on every database. A database gets them through a migration, which on PostgreSQL carries
its own copy of the text; a test holds the two together. docs/reading.md shows their use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Final

from closingbell.store.origin import FLAT, MADE

#: The views, those that others are made of last.
VIEWS: Final = ("bar_history", "bar_total_return", "bar_adjusted", "split_factor")


class Views(ABC):
    """The queries behind them, in the words of one kind of database.

    Attributes:
        session: the column of that name, a reserved word on some.
        one: what ``EXISTS`` selects, after a blank.
        instant: the instant as of which something is known.
    """

    session: ClassVar[str] = "session"
    one: ClassVar[str] = " 1"
    instant: ClassVar[str] = "instant"

    # -- what the databases say differently ----------------------------------------------------------------------

    def over(self, window: str) -> str:
        """What follows a function of a window."""
        return f"OVER ({window})"

    def named(self, window: str) -> str:
        """What ends a query that has functions of a window, where :meth:`over` names it."""
        return ""

    def by(self, column: str) -> str:
        """What ends a query whose rows had better come sorted, for the sake of the planner."""
        return ""

    @abstractmethod
    def product(self, factor: str, over: str) -> str:
        """The product of positive factors over a window, double precision."""

    @abstractmethod
    def product_of_ratios(self, over: str) -> str:
        """The product of ``split_from / split_to`` over a window, or over all rows: of none, 1; double precision."""

    @abstractmethod
    def close_before(self) -> str:
        """Joins to ``d``, of ticker and ``ex_date``, the last daily bar ``c`` before it; to none that no bar reached.

        A condition on ``d`` and ``c`` may follow; ``c`` has ``session`` and ``close``.
        """

    def of(self, x: str) -> str:
        """That a bar ``b`` is of the vendor ``x.source``: as it came, by flat file, or made here of its minutes."""
        return f"b.source IN ({x}.source, {x}.source || '{FLAT}', {x}.source || '{MADE}')"

    # -- splits --------------------------------------------------------------------------------------------------

    def held_since(self, x: str, day: str) -> str:
        """Since when whoever held ticker ``x.ticker`` on ``x.day`` had it.

        Whoever had it before is somebody else, told of or not. A split on the day on which a ticker ends is the last
        act of its holder, unless the next one starts on that day. A shipped chain starts where its membership of an
        index does, which is no reason to think of another holder before.
        """
        return f"""
    COALESCE(
        (SELECT max(CASE
             WHEN h.end_day < {x}.{day} THEN h.end_day
             WHEN h.origin = 'vendor' OR EXISTS (
                 SELECT{self.one} FROM ticker_history e
                 WHERE e.source = h.source AND e.instrument_id = h.instrument_id AND e.first_day < h.first_day)
             THEN h.first_day
             ELSE (SELECT max(e.end_day) FROM ticker_history e
                   WHERE e.source = h.source AND e.ticker = h.ticker AND e.end_day <= h.first_day)
             END)
         FROM ticker_history h
         WHERE h.source = {x}.source AND h.ticker = {x}.ticker AND h.first_day <= {x}.{day}),
        DATE '0001-01-01')"""  # noqa: S608  (fixed text)

    def split_factor(self, splits: str = "split") -> str:
        """The spans between splits, each with its factor; ``splits``: the table, or a query in brackets.

        The window is partitioned by ticker: only then does a reader's ``WHERE ticker = ...`` reach the index below it.
        """
        window = "PARTITION BY source, ticker, held_since ORDER BY execution_date DESC"
        over = self.over(window)
        return f"""
    SELECT source, ticker, first_session, before_session, factor
    FROM (
        SELECT source, ticker,
            COALESCE(lead(execution_date) {over}, held_since) AS first_session,
            execution_date AS before_session,
            {self.product_of_ratios(over)} AS factor
        FROM (
            SELECT s.source, s.ticker, s.execution_date, s.split_from, s.split_to,
                {self.held_since("s", "execution_date")} AS held_since
            FROM {splits} s
        ) held{self.named(window)}
    ) spans
    WHERE first_session < before_session{self.by("before_session")}"""  # noqa: S608  (fixed text)

    def known_splits(self) -> str:
        """The splits as they were known at an instant: what is listed now, and what has been taken back since."""
        return f"""(
                SELECT source, ticker, execution_date, split_from, split_to FROM split
                WHERE known_from <= {self.instant}
                UNION ALL
                SELECT source, ticker, execution_date, old_split_from, old_split_to FROM split_revision
                WHERE old_known_from <= {self.instant} AND seen_at > {self.instant}
            )"""  # noqa: S608  (fixed text)

    # -- bars ----------------------------------------------------------------------------------------------------

    def bar_adjusted(self, split_factor: str = "split_factor") -> str:
        """Every bar, times the factor of its span."""
        return f"""
    SELECT b.ticker, b.timeframe, b.{self.session}, b.ts,
        b.open * COALESCE(f.factor, 1) AS open,
        b.high * COALESCE(f.factor, 1) AS high,
        b.low * COALESCE(f.factor, 1) AS low,
        b.close * COALESCE(f.factor, 1) AS close,
        b.volume / COALESCE(f.factor, 1) AS volume,
        b.vwap * COALESCE(f.factor, 1) AS vwap,
        b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1) AS factor
    FROM bar b
    LEFT JOIN {split_factor} f ON {self.of("f")} AND f.ticker = b.ticker
        AND b.{self.session} >= f.first_session AND b.{self.session} < f.before_session"""  # noqa: S608  (fixed text)

    def split_factor_as_of(self) -> str:
        """The spans as they were known at an instant."""
        return self.split_factor(self.known_splits())

    def bar_adjusted_as_of(self, split_factor: str) -> str:
        """Bars that had opened by an instant, adjusted by the splits that were known then."""
        return f"{self.bar_adjusted(split_factor)}\n    WHERE b.ts <= {self.instant}"

    def bar_as_of(self) -> str:
        """Every bar with the values that were known at an instant.

        Of a bar's values that have been replaced since, the oldest ones are those of the instant. A bar that was taken
        out of the table has left a revision like any other.
        """
        return f"""
    SELECT b.ticker, b.timeframe, b.{self.session}, b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id
    FROM bar b
    WHERE b.ts <= {self.instant}
      AND NOT EXISTS (SELECT{self.one} FROM run r WHERE r.run_id = b.run_id AND r.as_of > {self.instant})
      AND NOT EXISTS (
        SELECT{self.one} FROM revision v
        WHERE v.ticker = b.ticker AND v.timeframe = b.timeframe AND v.ts = b.ts AND v.seen_at > {self.instant})
    UNION ALL
    SELECT v.ticker, v.timeframe, v.{self.session}, v.ts,
        v.old_open, v.old_high, v.old_low, v.old_close, v.old_volume, v.old_vwap, v.old_trades, v.source, v.old_run_id
    FROM revision v
    WHERE v.ts <= {self.instant} AND v.seen_at > {self.instant}
      AND NOT EXISTS (SELECT{self.one} FROM run r WHERE r.run_id = v.old_run_id AND r.as_of > {self.instant})
      AND NOT EXISTS (
        SELECT{self.one} FROM revision e
        WHERE e.ticker = v.ticker AND e.timeframe = v.timeframe AND e.ts = v.ts
          AND e.seen_at > {self.instant} AND e.revision_id < v.revision_id)"""  # noqa: S608  (fixed text)

    # -- dividends -----------------------------------------------------------------------------------------------

    def dividend_factor(self) -> str:
        """The spans between dividends, each with its factor.

        Reinvested at the close before the ex-date, which is brought into the ex-date's scale where a split lies
        between them. A day's dividends add up. Passed over: other currencies; what exceeds the price itself (a vendor's
        slip); an ex-date that no bar has reached, for the close before it is not known yet.
        """
        window = "PARTITION BY source, ticker, held_since ORDER BY ex_date DESC"
        over = self.over(window)
        return f"""
    SELECT source, ticker,
        COALESCE(lead(ex_date) {over}, held_since) AS first_session,
        ex_date AS before_session,
        {self.product("1 - cash / before_ex", over)} AS factor
    FROM (
        SELECT d.source, d.ticker, d.ex_date, d.held_since, d.cash,
            c.close * (SELECT {self.product_of_ratios("")} FROM split s
                       WHERE s.source = d.source AND s.ticker = d.ticker
                         AND s.execution_date > c.{self.session} AND s.execution_date <= d.ex_date) AS before_ex
        FROM (
            SELECT p.source, p.ticker, p.ex_date, p.cash, {self.held_since("p", "ex_date")} AS held_since
            FROM (
                SELECT source, ticker, ex_date, sum(cash_amount) AS cash FROM dividend
                WHERE currency = 'USD' GROUP BY source, ticker, ex_date
            ) p
        ) d{self.close_before()}
    ) paid
    WHERE cash < before_ex{self.named(window)}{self.by("before_session")}"""  # noqa: S608  (fixed text)

    def bar_total_return(self) -> str:
        """Daily bars with dividends reinvested."""
        return f"""
    SELECT b.ticker, b.{self.session}, b.ts, b.close,
        b.close * COALESCE(f.factor, 1) AS adjusted_close,
        b.close * COALESCE(f.factor, 1) * COALESCE(d.factor, 1) AS total_return_close,
        COALESCE(f.factor, 1) AS factor,
        COALESCE(d.factor, 1) AS dividend_factor,
        b.source, b.run_id
    FROM bar b
    LEFT JOIN split_factor f ON f.source = b.source AND f.ticker = b.ticker
        AND b.{self.session} >= f.first_session AND b.{self.session} < f.before_session
    LEFT JOIN ({self.dividend_factor()}
    ) d ON d.source = b.source AND d.ticker = b.ticker
        AND b.{self.session} >= d.first_session AND b.{self.session} < d.before_session
    WHERE b.timeframe = '1d'"""  # noqa: S608  (fixed text)

    # -- renames -------------------------------------------------------------------------------------------------

    def last(self) -> str:
        """The last ticker of every instrument; of several that ended under the same one, only the latest holder's."""
        return f"""
    SELECT l.source, l.ticker, l.instrument_id FROM ticker_history l
    WHERE NOT EXISTS (
        SELECT{self.one} FROM ticker_history n
        WHERE n.source = l.source AND n.instrument_id = l.instrument_id AND n.first_day > l.first_day)
      AND NOT EXISTS (
        SELECT{self.one} FROM ticker_history r
        WHERE r.source = l.source AND r.ticker = l.ticker AND r.first_day > l.first_day
          AND NOT EXISTS (
            SELECT{self.one} FROM ticker_history n
            WHERE n.source = r.source AND n.instrument_id = r.instrument_id
              AND n.first_day > r.first_day)){self.by("l.instrument_id")}"""  # noqa: S608  (fixed text)

    def instrument_factor(self) -> str:
        """The spans between all splits of an instrument's life, each with its factor.

        A split on the day of a rename may be listed under the old ticker, the new one, or both; it is one split.
        """
        window = "PARTITION BY source, ticker, instrument_id ORDER BY execution_date DESC"
        over = self.over(window)
        return f"""
    SELECT source, ticker, instrument_id,
        COALESCE(lead(execution_date) {over}, DATE '0001-01-01') AS first_session,
        execution_date AS before_session,
        {self.product_of_ratios(over)} AS factor
    FROM (
        SELECT l.source, l.ticker, l.instrument_id, s.execution_date, s.split_from, s.split_to,
            row_number() OVER (PARTITION BY l.source, l.ticker, l.instrument_id, s.execution_date
                               ORDER BY h.first_day DESC) AS listing
        FROM ({self.last()}
        ) l
        JOIN ticker_history h ON h.source = l.source AND h.instrument_id = l.instrument_id
        JOIN split s ON s.source = h.source AND s.ticker = h.ticker AND s.execution_date >= h.first_day
            AND (h.end_day IS NULL OR s.execution_date < h.end_day
                 OR (s.execution_date = h.end_day AND NOT EXISTS (
                     SELECT{self.one} FROM ticker_history n
                     WHERE n.source = h.source AND n.ticker = h.ticker AND n.first_day = h.end_day)))
    ) listed
    WHERE listing = 1{self.named(window)}{self.by("before_session")}"""  # noqa: S608  (fixed text)

    def bar_history(self) -> str:
        """Raw bars of each instrument under its last ticker, and of every ticker that nobody identified."""
        return f"""
    SELECT l.ticker, l.instrument_id, b.ticker AS traded_as, b.timeframe, b.{self.session}, b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1) AS factor
    FROM ({self.last()}
    ) l
    JOIN ticker_history h ON h.source = l.source AND h.instrument_id = l.instrument_id
    JOIN bar b ON {self.of("h")} AND b.ticker = h.ticker
        AND b.{self.session} >= h.first_day AND (h.end_day IS NULL OR b.{self.session} < h.end_day)
    LEFT JOIN ({self.instrument_factor()}
    ) f ON f.source = l.source AND f.ticker = l.ticker AND f.instrument_id = l.instrument_id
        AND b.{self.session} >= f.first_session AND b.{self.session} < f.before_session
    UNION ALL
    SELECT b.ticker, CAST(NULL AS varchar(40)), b.ticker, b.timeframe, b.{self.session}, b.ts,
        b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades, b.source, b.run_id,
        COALESCE(f.factor, 1)
    FROM bar b
    LEFT JOIN split_factor f ON {self.of("f")} AND f.ticker = b.ticker
        AND b.{self.session} >= f.first_session AND b.{self.session} < f.before_session
    WHERE NOT EXISTS (
        SELECT{self.one} FROM ticker_history h WHERE {self.of("h")} AND h.ticker = b.ticker)"""  # noqa: S608

    def create(self) -> list[str]:
        """The statements that make the views, in order."""
        queries = {
            "split_factor": self.split_factor(),
            "bar_adjusted": self.bar_adjusted(),
            "bar_total_return": self.bar_total_return(),
            "bar_history": self.bar_history(),
        }
        return [f"CREATE OR REPLACE VIEW {name} AS {query}" for name, query in queries.items()]
