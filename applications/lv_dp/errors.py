"""The one kind of error that the command line prints without a traceback."""

from __future__ import annotations


class UsageError(ValueError):
    """Something the user can put right; the message is one line."""
