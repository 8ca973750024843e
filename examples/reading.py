# %% [markdown]
# # Reading stored bars
#
# Run the cells in a notebook or an editor that knows `# %%`, or the whole file: `python examples/reading.py`.
# It reads what DATABASE_URL names, or what `make run` has left in `.closingbell/`. Nothing here writes.

# %%
import pandas as pd

from closingbell import read

database = read.connect()  # opened once; read.bars() alone would open it for each call

# %% [markdown]
# What is there: from which session to which each ticker is accounted for.

# %%
marks = read.watermarks(timeframe="1d", database=database)
print(f"{len(marks):,} tickers, {marks['first_session'].min():%Y-%m-%d} to {marks['last_session'].max():%Y-%m-%d}")

# %% [markdown]
# One ticker as it was traded. A bar is a row; `ts` is the instant at which it opens, `session` the trading day.

# %%
ticker = "AAPL" if "AAPL" in marks["ticker"].values else str(marks["ticker"].iloc[0])
raw = read.bars(ticker, database=database)
print(raw.tail(3).to_string(index=False))

# %% [markdown]
# Adjusted by the splits: what a chart or a return needs.

# %%
adjusted = read.bars(ticker, adjusted=True, columns=["close", "volume", "factor"], database=database)
returns = adjusted.set_index("session")["close"].pct_change()
print(f"{ticker}: {len(adjusted):,} sessions, {(adjusted['factor'] != 1).sum():,} before a split")
print(f"the worst day lost {-returns.min():.1%}, the best one gained {returns.max():.1%}")

# %% [markdown]
# Several tickers side by side: a column each.

# %%
names = [str(name) for name in marks["ticker"].head(5)]
last = marks["last_session"].max()
closes = read.bars(names, last - pd.Timedelta(days=30), last, adjusted=True, columns=["close"], database=database)
table = closes.pivot(index="session", columns="ticker", values="close")
print(table.tail(3).round(2).to_string())

# %% [markdown]
# As it was known on a day: what a backtest may see. Corrections that came later are undone, and bars that were fetched
# later are absent; so of a history that was loaded today, nothing was known yesterday.

# %%
runs = read.runs(database=database)
first = runs["as_of"].min()
before = read.bars(ticker, as_of=first - pd.Timedelta(seconds=1), database=database)
known = read.bars(ticker, as_of=pd.Timestamp.now("UTC"), database=database)
print(f"{len(before)} bars of {ticker} were known before the first run, {len(known):,} are now")
revisions = read.revisions(ticker, database=database)
print(f"the vendor changed {len(revisions)} of them since they were stored")

# %% [markdown]
# Sessions without a bar, and why.

# %%
gaps = read.gaps(timeframe="1d", database=database)
print(gaps.groupby("reason", observed=True).size().to_dict() or "no gaps")

# %% [markdown]
# More than fits into memory: part by part, here the dollars that were traded.

# %%
dollars = sum((part["close"] * part["volume"]).sum() for part in read.batches(rows=50_000, database=database))
print(f"{dollars:,.0f} dollars were traded in all stored sessions")

# %%
database.close()
