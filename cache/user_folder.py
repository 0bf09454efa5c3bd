"""The user's cache folder, ~/.cache/anchorage: which folder there is the local copy of a URL, and of which URL one is.

Both follow from the names alone, so that every process and every record agrees: s3://bucket/some/name.zarr is copied
to remote/s3/bucket%2Fsome/name.zarr. The name stays the last part, as tables and file names are made of it, and no copy
lies within another.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)", re.DOTALL)


def user_folder(kind: str = "") -> Path:
    """Return the folder for files of a kind, or of all; XDG_CACHE_HOME, where it is set, stands for ~/.cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return home / "anchorage" / kind


def copy_of(url: str) -> Path:
    """Return the local folder of what lies at a URL. Raises ValueError if it does not name a folder in a bucket."""
    found = URL.fullmatch(url)
    *parents, name = found["rest"].strip("/").split("/") if found else [""]
    if found is None or not parents or {"", ".", ".."} & {*parents, name}:
        raise ValueError(f"{url} does not name a folder in a bucket")
    return user_folder("remote") / found["scheme"].lower() / quote("/".join(parents), safe="") / name


def url_of(folder: Path) -> str | None:
    """Return the URL whose local copy a folder is, None for any other path."""
    for root in (user_folder("remote"), user_folder("remote").resolve()):
        if folder.is_relative_to(root) and len(parts := folder.relative_to(root).parts) == 3:
            return f"{parts[0]}://{unquote(parts[1])}/{parts[2]}"
    return None


def as_typed(text: object) -> str:
    """Return a path, or a text with paths in it, with the URL in place of each local copy of one."""
    shown = str(text)
    for root in (user_folder("remote").resolve(), user_folder("remote")):
        start = re.escape(f"{root}{os.sep}")
        shown = re.sub(rf"{start}([a-z][a-z0-9+.-]+)/([^/\s]+)/", _url_start, shown)
    return shown


def _url_start(found: re.Match[str]) -> str:
    return f"{found[1]}://{unquote(found[2])}/"
