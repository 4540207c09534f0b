"""The one kind of error that the command line prints without a traceback."""

from __future__ import annotations

LONGEST = 1000  # characters of a message


class UsageError(ValueError):
    """Something the user can put right; the message is one line.

    What a terminal would obey (a file's name or content may hold it) is escaped.

    Example:
        >>> print(UsageError(f"a{chr(7)}.png: no such file").args[0].isprintable())
        True
    """

    def __init__(self, message: str) -> None:
        shown = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode()
            for character in message[: LONGEST + 1]
        )
        super().__init__(shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} ...")


class DataError(UsageError):
    """Data that cannot be used; the message is one line and names the file."""
