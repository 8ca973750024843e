"""Pictures of what is stored: coverage as a heat map, candlesticks of a ticker, the last nights; and one page of all.

Each is first a plain value with its numbers, read from the database in a few queries, and then a PNG. The same numbers
stand in the page's tables, and in what ``closingbell picture --json`` prints. Nothing here keeps state: all of it may
be called from any thread. Nothing is imported here, so that the command's help answers at once.
"""
