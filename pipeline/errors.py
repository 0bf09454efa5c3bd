"""Errors whose message is shown to the user: one sentence, without a traceback."""

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """A failure: the message says what happened, what was expected or found, and what to do. Exit code 1."""


class WrongUse(PipelineError):
    """A command or setting that cannot work: a missing folder, an unknown name, a bad value. Exit code 2."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its name if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'NEAREST'?" for the end of an error message, or "" if no known name is similar."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
