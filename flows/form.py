"""The flows' forms in the Prefect UI: what their parameters share, and how they are laid out.

Prefect makes a form from a flow's signature: a choice of a ``Literal``, a date picker of a ``date``, bounds of ``ge``
and ``le``, help of the docstring. Two things it does badly, and :func:`grouped` mends both: a list of sixteen names
says not which of them belong together, and an optional one is a pair of tabs that hide the field.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Final, Literal, ParamSpec, TypeVar, get_args, get_origin

from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import Field, StringConstraints
from pydantic_core import MISSING

from closingbell.settings import TaskRunnerName
from closingbell.universe import TICKER_PATTERN

P = ParamSpec("P")
R = TypeVar("R")

#: A ticker as the vendor writes it; the form refuses anything else.
Ticker = Annotated[str, StringConstraints(pattern=TICKER_PATTERN, min_length=1, max_length=32)]

#: Prefect's form checks a pattern but not ``format: date``, so the shape of a date is given as both.
Day = Annotated[date, Field(json_schema_extra={"pattern": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"})]

#: Of the bars; the form offers a choice.
Timeframe = Literal["1d", "1h", "30m", "15m", "5m", "1m"]

#: The vendors that a person may ask for.
Vendor = Literal["polygon", "databento"]

Universe = Literal["sp500+etfs", "sp500", "etfs"]

#: Who makes the calls.
TaskRunner = TaskRunnerName

#: Processes of a Dask cluster on the run's machine.
DaskWorkers = Annotated[int, Field(ge=1, le=256)]

#: A Dask scheduler's.
DaskAddress = Annotated[str, Field(pattern=r"^([a-z]+://\S+)?$", max_length=200)]

#: Calls in one task.
BatchSize = Annotated[int, Field(ge=1, le=10_000)]

#: Titles of groups that several forms have.
FIRST: Final = "Look first"
WHOSE: Final = "Whose bars"
WHEN: Final = "Which days"
WHAT: Final = "Which bars"
AGAIN: Final = "Once more"
HOW: Final = "How"


def grouped(groups: Mapping[str, Sequence[str]]) -> Callable[[Flow[P, R]], Flow[P, R]]:
    """Lay out a flow's form: its parameters in the order of the groups, each under its group's title.

    An optional parameter becomes the plain field of its type, to be left empty: but for a toggle, which cannot be.
    The flow itself, its parameters and what they accept stay as they are.

    Args:
        groups: the parameters' names under each title; every parameter once.
    """
    order = [(name, f"{title}: {name}") for title, names in groups.items() for name in names]

    def laid_out(flow: Flow[P, R]) -> Flow[P, R]:
        signature = inspect.signature(flow.fn, eval_str=True)
        if sorted(name for name, _ in order) != sorted(signature.parameters):
            raise TypeError(f"the groups of the form {flow.name} are not its parameters")
        fields = [_field(signature.parameters[name], title) for name, title in order]
        # What Prefect makes the form from; calls go by the signature of the function.
        flow.__signature__ = inspect.Signature(fields)  # type: ignore[attr-defined]
        flow.parameters = parameter_schema(flow)
        return flow

    return laid_out


def _field(parameter: inspect.Parameter, title: str) -> inspect.Parameter:
    """The parameter with a title; None as a default is left out, and its tab with it, where a field can be empty."""
    of, default = parameter.annotation, parameter.default
    kinds = [each for each in get_args(of) if each is not type(None)]
    if default is None and bool not in kinds:
        default = MISSING
        # Of a choice, Prefect's server would refuse a null that a script gives: that keeps its tab.
        of = of if get_origin(kinds[0]) is Literal else kinds[0]
    entitled: Any = Annotated[of, Field(json_schema_extra={"title": title})]
    return parameter.replace(annotation=entitled, default=default, kind=inspect.Parameter.KEYWORD_ONLY)
