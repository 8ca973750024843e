"""Dated facts that ship with the package: index membership and a list of ETFs. ``README.md`` says where from.

Membership intervals: Copyright (c) 2019-2020 Farrell J. Aultman, MIT License, https://github.com/fja05680/sp500.
Current members: https://github.com/datasets/s-and-p-500-companies, Open Data Commons PDDL.
"""
