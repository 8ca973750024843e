"""The help of a command: its options under headings, in the order in which a person needs them."""

from __future__ import annotations

from typing import Any, Final

import click

#: The headings of what is asked for, and of how it is fetched.
CELLS: Final = "Which cells"
HOW: Final = "How"

#: The heading of options that name none; they come last.
_OTHERS: Final = "Options"


class SectionedOption(click.Option):
    """An option that stands under a heading of its own.

    Args:
        section: the heading.
    """

    def __init__(self, *args: Any, section: str = _OTHERS, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class SectionedCommand(click.Command):
    """A command that shows its options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, heading by heading, in the order in which the headings come first."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                sections.setdefault(getattr(parameter, "section", _OTHERS), []).append(record)
        for heading in sorted(sections, key=lambda heading: heading == _OTHERS):
            with formatter.section(heading):
                formatter.write_dl(sections[heading])
