"""Text that others wrote, made fit to be shown."""

from __future__ import annotations


def visible(text: str, *, keep: str = "") -> str:
    r"""``text`` with every character that could act, rather than be read, written as its escape: ``\x1b``, ``\u202e``.

    Control characters steer a terminal, line ends forge a line of a log, and marks of direction or of no width let
    one name pass for another.

    Args:
        text: from a vendor, a database, a file.
        keep: characters to leave as they are, such as the line ends of a text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)
