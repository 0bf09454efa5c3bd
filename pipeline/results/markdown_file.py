"""Generated text between markers of a Markdown file."""

from pathlib import Path

from cache.durable import write_file
from pipeline.errors import WrongUse


def write_into(markdown_file: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->`, atomically.

    Raises:
        WrongUse: the file is missing, or it does not hold these markers once each and in this order.
    """
    if not markdown_file.is_file():
        raise WrongUse(f"there is no {markdown_file} to write the results into")
    opening, closing = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    # Bytes, so that the line endings outside the markers stay as they are.
    found = markdown_file.read_bytes().decode()
    before, _, rest = found.partition(opening)
    _, _, after = rest.partition(closing)
    if found.count(opening) != 1 or found.count(closing) != 1 or closing not in rest:
        raise WrongUse(
            f"{markdown_file} needs one {opening} and after it one {closing}; "
            "put these two lines where the results belong"
        )
    # Resolved, or the rename would replace a symbolic link instead of the file.
    write_file(markdown_file.resolve(), f"{before}{opening}\n{text.strip()}\n{closing}{after}".encode())
