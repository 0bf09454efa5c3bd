"""What a folder at a URL holds, and which of its files are here too.

A command that sends a folder keeps a list of its files there, `.anchorage.json`, with size and sha256 of each and
whether the folder is whole. A folder without a list, as other programs copy one, is taken as it is listed.

Beside a local copy, `.NAME.json` records the files that were the same here and there.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cache.durable import write_file
from cache.user_folder import as_typed
from pipeline.errors import PipelineError, WrongUse
from pipeline.remote.remote_folder import RemoteFolder

FORMAT = 1
LIST = ".anchorage.json"
STORE_HEAD = "zarr.json"
HEADS = (STORE_HEAD, "dataset.json")  # of a store and of a dataset; sent last


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of a remote folder. version: changes with its content. sha256: None where there is no list."""

    size: int
    version: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The files of a remote folder by relative name.

    whole: whether it was sent to its end. listed: by a list. head: the text of the head of a store that is not whole.
    """

    files: dict[str, Entry]
    whole: bool
    listed: bool
    head: str | None = None


@dataclass(frozen=True, kw_only=True)
class Same:
    """A local file that was the same as the remote one of a version. mtime_ns: its time of change then."""

    size: int
    mtime_ns: int
    version: str
    sha256: str

    def still(self, file: Path) -> bool:
        """Whether the local file was not changed since."""
        try:
            found = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass(kw_only=True)
class Record:
    """The record of a local copy. whole: whether it was once a copy of all that was there."""

    whole: bool = False
    files: dict[str, Same] = field(default_factory=dict)


def read_contents(remote: RemoteFolder) -> Contents:
    """Return what a remote folder holds. Raises PipelineError for a list that cannot be read."""
    data = remote.read(LIST)
    if data is None:
        return _unlisted(remote.listing())
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, found {content['format']}")
        files = {
            _safe(name): Entry(size=int(size), version=str(sha256), sha256=str(sha256))
            for name, (size, sha256) in content["files"].items()
        }
        head = content.get("head")
        if not isinstance(head, str | None):
            raise TypeError(f"expected a text as head, found {head!r}")
        return Contents(files=files, whole=content["whole"] is True, listed=True, head=head)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{remote.url}/{LIST} cannot be read ({error}): delete it, and run the command that wrote {remote.url} "
            "again, which sends all of it"
        ) from error


def _unlisted(listing: Mapping[str, tuple[int, str]]) -> Contents:
    files = {
        _safe(name): Entry(size=size, version=version)
        for name, (size, version) in listing.items()
        if not is_hidden(name)
    }
    if "dataset.json" in files:  # a store in the folder of a dataset is not part of it
        files = {name: entry for name, entry in files.items() if "/" not in name}
    return Contents(files=files, whole=any(head in files for head in HEADS), listed=False)


def write_list(
    remote: RemoteFolder, files: Mapping[str, Same], *, whole: bool, head: str | None = None
) -> None:
    """Write the list of a remote folder. head: of a store that is not whole, for who goes on with it."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "whole": whole,
        "files": {name: (same.size, same.sha256) for name, same in sorted(files.items())},
    }
    if head is not None:
        content["head"] = head
    remote.write(LIST, json.dumps(content, indent=0).encode())


def require_whole(url: str, contents: Contents) -> None:
    """Raise an error, with the way out, unless a remote folder is a whole store or dataset."""
    if not contents.files and not contents.listed:
        raise WrongUse(
            f"there is nothing at {url}: check the name, or write it there with cache-teacher or pack"
        )
    if not contents.whole and contents.listed:
        raise PipelineError(
            f"{url} was sent in part only ({len(contents.files)} files so far): run the command that writes it again, "
            "which goes on from there"
        )
    if not contents.whole:
        raise WrongUse(
            f"{url} is neither a cache nor a dataset, or only a part of one (no {' and no '.join(HEADS)}): check the "
            "name"
        )


def record_file(folder: Path) -> Path:
    """Return the file of a local copy's record."""
    return folder.with_name(f".{folder.name}.json")


def read_record(folder: Path) -> Record:
    """Return the record of a local copy; an empty one if there is none that can be read."""
    try:
        content = json.loads(record_file(folder).read_bytes())
        files = {name: Same(**same) for name, same in content["files"].items()}
        return Record(whole=content["whole"] is True, files=files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Record()


def write_record(folder: Path, record: Record) -> None:
    """Write the record of a local copy. Raises StoreError when the system refuses."""
    files: dict[str, Any] = {name: asdict(same) for name, same in record.files.items()}
    write_file(record_file(folder), json.dumps({"whole": record.whole, "files": files}).encode())


def same_as(file: Path, version: str | None = None) -> Same:
    """Return a file as one that is the same there. version: there; its sha256 if None. Raises OSError."""
    before = file.stat()
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    there = sha256 if version is None else version
    return Same(size=before.st_size, mtime_ns=before.st_mtime_ns, version=there, sha256=sha256)


def local_names(folder: Path) -> list[str]:
    """Return the relative names of a folder's files, small ones first and the head of all last.

    Hidden files, such as locks and partial ones, are left out.
    """
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = {file.relative_to(folder).as_posix(): file for file in files}
    visible = [name for name in names if not is_hidden(name)]
    return sorted(visible, key=lambda name: (name in HEADS, names[name].stat().st_size, name))


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder above it, has a hidden name."""
    return any(part.startswith(".") for part in name.split("/"))


def _safe(name: str) -> str:
    """Return a relative name. Raises PipelineError for one that would be written elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or is_hidden(name) or str(path) != name:
        raise PipelineError(
            f"a remote folder names a file {as_typed(name)!r}, which cannot be copied: remove it there"
        )
    return name
