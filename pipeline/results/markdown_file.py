"""Generated text between the markers of a Markdown file."""

from pathlib import Path

from cache.durable import write_file
from pipeline.errors import WrongUse
from pipeline.runtime.outputs import require_writable_file


def has_markers(markdown_file: Path, name: str) -> bool:
    """Return whether the file has a place for the results NAME."""
    return markdown_file.is_file() and markers(name)[0] in _text(markdown_file)


def write_into(markdown_file: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- results:NAME -->` and `<!-- /results:NAME -->`, atomically.

    Raises WrongUse as `require_markers`.
    """
    opening, closing = markers(name)
    before, after = split_at_markers(markdown_file, name)
    # resolved, or the rename would replace a symbolic link instead of its target
    write_file(
        markdown_file.resolve(),
        f"{before}{opening}\n{text.strip()}\n{closing}{after}".encode(),
        resumes=False,
    )


def require_markers(markdown_file: Path, name: str) -> None:
    """Raise WrongUse when the file is missing or read-only, or lacks one of each marker in this order."""
    split_at_markers(markdown_file, name)
    require_writable_file(markdown_file.resolve())


def split_at_markers(markdown_file: Path, name: str) -> tuple[str, str]:
    """Return the text before and after the markers of NAME. Raises WrongUse as `require_markers`."""
    if not markdown_file.is_file():
        raise WrongUse(f"there is no {markdown_file}; create it with the markers that the results go between")
    opening, closing = markers(name)
    content = _text(markdown_file)
    before, _, rest = content.partition(opening)
    _, _, after = rest.partition(closing)
    if content.count(opening) != 1 or content.count(closing) != 1 or closing not in rest:
        raise WrongUse(
            f"{markdown_file} needs one {opening} and after it one {closing}; "
            "put these two lines where the results belong"
        )
    return before, after


def markers(name: str) -> tuple[str, str]:
    """Return the comments around the results NAME."""
    return f"<!-- results:{name} -->", f"<!-- /results:{name} -->"


def _text(markdown_file: Path) -> str:
    """Return a file's text with its line endings as they are. Raises WrongUse for what is not UTF-8."""
    try:
        return markdown_file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise WrongUse(f"{markdown_file} is not UTF-8 text ({error}); save it as UTF-8") from error
