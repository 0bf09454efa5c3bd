"""Generated text between the markers of a Markdown file."""

from pathlib import Path

from cache.durable import write_file
from pipeline.errors import WrongUse


def has_markers(markdown_file: Path, name: str) -> bool:
    """Return whether the file has a place for the results NAME."""
    return markdown_file.is_file() and markers(name)[0] in markdown_file.read_text()


def write_into(markdown_file: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- results:NAME -->` and `<!-- /results:NAME -->`, atomically.

    Raises WrongUse when the file is missing, or does not have each marker exactly once and in this order.
    """
    if not markdown_file.is_file():
        raise WrongUse(f"there is no {markdown_file}; create it with the markers that the results go between")
    opening, closing = markers(name)
    # bytes, to keep the line endings outside the markers
    content = markdown_file.read_bytes().decode()
    before, _, rest = content.partition(opening)
    _, _, after = rest.partition(closing)
    if content.count(opening) != 1 or content.count(closing) != 1 or closing not in rest:
        raise WrongUse(
            f"{markdown_file} needs one {opening} and after it one {closing}; "
            "put these two lines where the results belong"
        )
    # resolved, or the rename would replace a symbolic link instead of its target
    write_file(markdown_file.resolve(), f"{before}{opening}\n{text.strip()}\n{closing}{after}".encode())


def markers(name: str) -> tuple[str, str]:
    """Return the comments around the results NAME."""
    return f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
