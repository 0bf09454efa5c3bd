"""What can go wrong in words. The command line prints the sentence and exits with the error's code."""

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """A failure in words: what happened, what was expected and found, what to do."""

    exit_code = 1


class WrongUse(PipelineError):
    """The command was asked for something that cannot be: a missing folder, an unknown name, a bad value."""

    exit_code = 2


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of an error sentence, or nothing when none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
