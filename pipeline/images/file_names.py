"""File names as text: any file name becomes valid text, and one line where a file has one name per line."""

import re


def escape(name: str) -> str:
    r"""Return a file name as valid text: a backslash is doubled, a byte that is not UTF-8 becomes \xNN."""
    return name.replace("\\", r"\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unescape(text: str) -> str:
    """Return the file name that `escape` was given."""
    return re.sub(
        r"\\(\\|x[0-9a-f]{2})", lambda m: "\\" if m[1] == "\\" else chr(0xDC00 + int(m[1][1:], 16)), text
    )


def one_line(name: str) -> str:
    r"""Return a file name as one line of text: as `escape`, and every line break becomes \n, \r or \uNNNN.

    Line breaks are all characters at which `str.splitlines` splits.
    """
    return "".join(_escaped_break(c) if len(f"{c}.".splitlines()) > 1 else c for c in escape(name))


def _escaped_break(character: str) -> str:
    return {"\n": r"\n", "\r": r"\r"}.get(character, f"\\u{ord(character):04x}")
