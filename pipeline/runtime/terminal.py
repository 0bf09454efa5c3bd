"""Output of any text on any terminal."""

import codecs
import io
import sys

SPELLED = {"±": "+/-", "→": "->", "τ": "tau"}


def spell(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that an encoding lacks, and where it goes on; an error handler of codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SPELLED.get(each) or ascii(each)[1:-1] for each in lacking), error.end


def print_any_text() -> None:
    """Make the standard streams spell what they cannot encode, such as ± in ASCII or a file name that is not text."""
    codecs.register_error(spell.__name__, spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=spell.__name__)
