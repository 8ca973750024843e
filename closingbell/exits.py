"""How the command ends: its exit codes, and an error told to a person or to a program."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final

import click

from closingbell.errors import ClosingbellError

#: Exit codes that scripts can rely on.
OK: Final = 0
CELLS_FAILED: Final = 1
CANNOT_RUN: Final = 2
#: As a shell says of a command that Ctrl-C ended.
CANCELLED: Final = 130
#: As a shell says of a command whose reader went away, as ``head`` does.
UNREAD: Final = 141

#: What each says; docs/commands.md has its table from here.
MEANINGS: Final = {
    OK: "all is good: every cell is accounted for, and none failed",
    CELLS_FAILED: "it ran, and cells failed or are not accounted for",
    CANNOT_RUN: "it could not run, or not go on: a wrong option or setting, no database, a refused key",
    CANCELLED: "it was stopped: Ctrl-C, SIGTERM, or a cancellation",
    UNREAD: "nobody reads its output any more, as when it goes through `head`",
}


class Commands(click.Group):
    """A group whose commands end with these codes; with ``--json``, an error is one JSON object on standard output."""

    def run(self, arguments: Sequence[str] | None = None) -> int:
        """Run a command and return its exit code.

        Args:
            arguments: what follows the program's name; None: the process's own.
        """
        given = list(sys.argv[1:] if arguments is None else arguments)
        as_json = "--json" in given
        try:
            code = self.main(given, prog_name="closingbell", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else OK
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else OK
        except click.ClickException as error:
            if not as_json:
                error.show()
            context = getattr(error, "ctx", None)
            fix = f"See {context.command_path if context else 'closingbell'} --help."
            told, code = _error(error.format_message(), fix=fix), CANNOT_RUN
        except ClosingbellError as error:
            click.echo(f"error: {error}", err=True)
            value = None if error.value is None else str(error.value)
            told, code = _error(error.what, value, error.fix) | {"error": str(error)}, CANNOT_RUN
        except (click.Abort, KeyboardInterrupt):
            click.echo("stopped", err=True)
            told, code = _error("stopped"), CANCELLED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail again at exit
            return UNREAD
        except Exception as error:  # noqa: BLE001  (Python's own code for it is 1, which says that cells failed)
            traceback.print_exc()
            fix = "This is a bug; what is stored stands. Standard error has the traceback."
            told, code = _error("unexpected", type(error).__name__, fix), CANNOT_RUN
        if as_json:
            click.echo(json.dumps({**told, "exit_code": code}, indent=2))
        return code

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; click's own answer to a reader that went away is 1, which says that cells failed."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            ctx.exit(UNREAD)


def _error(what: str, value: str | None = None, fix: str = "") -> dict[str, Any]:
    """An error as a program gets it; ``error`` is the whole of it, as a run's report has it."""
    told = (what if value is None else f"{what}: {value}").removesuffix(".")
    return {"error": f"{told}. {fix}" if fix else told, "what": what, "value": value, "fix": fix}
