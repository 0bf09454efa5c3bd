"""Copying one file of a remote folder, in parts, to a hidden file that is renamed when its sha256 is right."""

import os
import threading
from pathlib import Path

from cache.durable import sync
from pipeline.errors import PipelineError
from pipeline.remote.contents import Entry, Same, same_as
from pipeline.remote.remote_folder import RemoteFolder
from pipeline.remote.transfer import ByteBar

PART_BYTES = 4 * 2**20
PARTS_AT_ONCE = 4


class Damaged(PipelineError):
    """A file at the URL is not the one that was sent there."""

    def __init__(self, name: str, url: str, fault: str) -> None:
        super().__init__(
            f"{url}/{name} is damaged ({fault}): delete it there and run the command that wrote {url} again, which "
            "sends this file again"
        )
        self.name = name


def fetch_file(
    remote: RemoteFolder, folder: Path, name: str, entry: Entry, bar: ByteBar, stop: threading.Event
) -> Same | Damaged:
    """Copy a file into a folder, unless the one that is here is the same. Raises PipelineError and OSError."""
    file = folder / name
    if entry.sha256 and file.is_file() and file.stat().st_size == entry.size:
        here = same_as(file)
        if here.sha256 == entry.sha256:
            bar.move(entry.size)
            return here
    file.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(file, entry)
    if entry.sha256 is None:  # nothing would show that what another process left belongs to this file
        part.unlink(missing_ok=True)
    goes_on = part.exists()
    found = _fetch_part(remote, name, entry, part, bar, stop)
    if goes_on and not _is_right(found, entry):
        # the fault may be here: after a power cut, what was written before may be zeros
        part.unlink()
        bar.move(-entry.size)
        found = _fetch_part(remote, name, entry, part, bar, stop)
    if not _is_right(found, entry):
        part.unlink()
        return Damaged(name, remote.url, "its sha256 is not that of the file that was sent")
    sync(part)
    os.replace(part, file)
    return found


def part_of(file: Path, entry: Entry) -> Path:
    """Return the partial file of a local file of this content."""
    version = "".join(filter(str.isalnum, entry.version))[:16]
    return file.with_name(f".{file.name}.{version}.tmp")


def _is_right(found: Same, entry: Entry) -> bool:
    return entry.sha256 is None or found.sha256 == entry.sha256


def _fetch_part(
    remote: RemoteFolder, name: str, entry: Entry, part: Path, bar: ByteBar, stop: threading.Event
) -> Same:
    """Append what a partial file lacks, and return it. Raises PipelineError when it is stopped."""
    with part.open("ab") as opened:
        start = opened.tell()
        if start > entry.size:
            opened.truncate(start := 0)
        bar.move(start)
        while start < entry.size and not stop.is_set():
            ends = range(start, entry.size, PART_BYTES)[:PARTS_AT_ONCE]
            wanted = [(first, min(first + PART_BYTES, entry.size)) for first in ends]
            for data, (first, end) in zip(remote.read_parts(name, wanted), wanted, strict=True):
                if len(data) != end - first:
                    raise PipelineError(f"{remote.url}/{name} was changed while it was copied: try again")
                opened.write(data)
                bar.move(len(data))
            opened.flush()
            start = opened.tell()
    if stop.is_set():
        raise PipelineError(f"copying {remote.url} was stopped: the same command goes on from here")
    return same_as(part, entry.version)
