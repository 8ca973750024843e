"""A stand-in for the extension ``pg_trgm``, which Prefect's migrations demand and the wheel does not ship.

Prefect creates it for one purpose: GIN indexes with the operator class ``gin_trgm_ops``, which make searching
its tables by a part of a name faster. This operator class has no operators, so the planner never considers
such an index and reads the table, which for a local server is small; nor does it extract anything, so the
index stays almost empty. ``void_in``, built in, ignores its arguments and returns nothing, and that to GIN means
"no entries". A genuine ``pg_trgm``, where there is one, comes first in the search path and is used instead.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CONTROL: Final = """\
comment = 'stand-in for pg_trgm: the operator class that indexes name, without operators'
default_version = '1.6'
relocatable = true
trusted = true
"""

_SCRIPT: Final = """\
create function gin_extract_value_trgm(text, internal) returns internal
    language internal immutable strict parallel safe as 'void_in';
create function gin_extract_query_trgm(text, internal, int2, internal, internal, internal, internal) returns internal
    language internal immutable strict parallel safe as 'void_in';
create function gin_trgm_consistent(internal, int2, text, int4, internal, internal, internal, internal) returns bool
    language internal immutable strict parallel safe as 'void_in';
create operator class gin_trgm_ops for type text using gin as
    function 1 bttextcmp(text, text),
    function 2 gin_extract_value_trgm(text, internal),
    function 3 gin_extract_query_trgm(text, internal, int2, internal, internal, internal, internal),
    function 4 gin_trgm_consistent(internal, int2, text, int4, internal, internal, internal, internal);
"""


def install(data: Path, account: tuple[int, int] | None) -> str:
    """Write the extension below the data directory.

    Args:
        data: the data directory of a server that does not run.
        account: the (uid, gid) that the server runs as, if not ours.

    Returns:
        The value of ``extension_control_path`` that finds it.
    """
    root = data / "extensions"
    directory = root / "extension"
    directory.mkdir(parents=True, exist_ok=True)
    files = {directory / "pg_trgm.control": _CONTROL, directory / "pg_trgm--1.6.sql": _SCRIPT}
    for path, text in files.items():
        path.write_text(text)
    if account:
        for path in (root, directory, *files):
            os.chown(path, *account)
    return f"$system:{root}"
