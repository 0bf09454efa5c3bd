"""Copying a dataset or a cache from its URL into the user's cache folder, once."""

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from cache.durable import sync
from cache.errors import StoreError
from cache.metadata import archive_of
from cache.reader import open_store
from cache.user_folder import url_of
from pipeline.errors import PipelineError, WrongUse
from pipeline.remote.contents import (
    Contents,
    Entry,
    Record,
    Same,
    read_contents,
    read_record,
    require_whole,
    same_as,
    write_record,
)
from pipeline.remote.remote_folder import TRIES, RemoteFolder, Unreachable
from pipeline.remote.transfer import ByteBar, alone, each
from pipeline.settings.local_path import local_path

PART_BYTES = 4 * 2**20
PARTS_AT_ONCE = 4  # of one file


class Damaged(PipelineError):
    """A file at the URL is not the one that was sent there."""

    def __init__(self, name: str, url: str, fault: str) -> None:
        super().__init__(
            f"{url}/{name} is damaged ({fault}): delete it there and run the command that wrote {url} again, which "
            "sends this file again"
        )
        self.name = name


def copy_here(folder: Path, *, to_write: bool = False) -> bool:
    """Make the local folder of a URL a copy of what is there; where it is one already, only the list there is read.

    A whole copy is used as it is while the URL cannot be reached. Processes that want the same copy wait for the one
    that makes it. to_write: the command goes on with what is there, which need not be whole or anything; files that are
    damaged there are left out. Returns whether what is there is whole.

    Raises:
        WrongUse: there is nothing at the URL, or no dataset or cache.
        Damaged: a file there is not the one that was sent; it is named, and not kept.
        PipelineError: what is there was sent in part only, or cannot be reached.
    """
    url = url_of(folder)
    assert url is not None, folder
    if to_write and url.startswith("hf://"):
        raise WrongUse(
            f"{url} can only be read, as each file that is written there is a commit of its own: write to a local "
            "path, and send that folder with `hf upload-large-folder`"
        )
    with alone(
        folder, lambda: print(f"waiting for another process, which is copying {url}", file=sys.stderr)
    ):
        record = read_record(folder)
        usable = (
            record.whole
            and not to_write
            and all(same.still(folder / name) for name, same in record.files.items())
        )
        try:
            remote = RemoteFolder(url, tries=2 if usable else TRIES)
            contents = read_contents(remote)
        except Unreachable as error:
            if not usable:
                raise
            print(f"warning: {str(error).split(': check')[0]}; its copy in {folder} is used", file=sys.stderr)
            return True
        if not to_write:
            require_whole(url, contents)
        _Copy(folder, remote, contents, record, leave_out_damaged=to_write).make()
    return contents.whole


def local_copy(text: str) -> Path:
    """Return the local path of a path or a URL as it was typed or recorded, after `copy_here` for a URL."""
    path = local_path(text, url=True)
    if url_of(path):
        copy_here(path)
    return path


class _Copy:
    """One copying of a remote folder."""

    def __init__(
        self, folder: Path, remote: RemoteFolder, contents: Contents, record: Record, leave_out_damaged: bool
    ) -> None:
        self.folder, self.remote, self.contents, self.record = folder, remote, contents, record
        self.leave_out_damaged, self.stop = leave_out_damaged, threading.Event()

    def make(self) -> None:
        before, wanted = self.record.files, self.contents.files
        self._remove_former(before.keys() - wanted.keys() if self.contents.whole else set())
        same = {name: before[name] for name, entry in wanted.items() if self._is_here(name, entry)}
        others = {name: entry for name, entry in wanted.items() if name not in same}
        unchanged = before == same and self.record.whole == self.contents.whole
        if not others and unchanged and not self.leave_out_damaged:
            return
        self.record = Record(files=same)
        present = self._present(wanted if self.leave_out_damaged else others)
        self.record.files = {name: each for name, each in same.items() if name in present}
        self._fetch({name: entry for name, entry in others.items() if name in present})
        if not self.contents.listed and not self.leave_out_damaged:
            self._verify()
        self.record.whole = self.contents.whole and len(self.record.files) == len(wanted)
        write_record(self.folder, self.record)

    def _is_here(self, name: str, entry: Entry) -> bool:
        same = self.record.files.get(name)
        return same is not None and same.version == entry.version and same.still(self.folder / name)

    def _remove_former(self, names: set[str]) -> None:
        """Delete files that came from there, or were sent there, and are there no more."""
        for name in names:
            if self.record.files[name].still(self.folder / name):
                (self.folder / name).unlink()

    def _present(self, wanted: Mapping[str, Entry]) -> set[str]:
        """Return the names that are there with the right size. Raises Damaged for others."""
        if not self.contents.listed or not wanted:
            return set(wanted)
        listing = self.remote.listing()
        present = set()
        for name, entry in wanted.items():
            found = listing.get(name, (None, ""))[0]
            if found == entry.size:
                present.add(name)
            else:
                fault = (
                    "it is missing" if found is None else f"it has {found:,} bytes, expected {entry.size:,}"
                )
                self._refuse(Damaged(name, self.remote.url, fault))
        return present

    def _refuse(self, error: Damaged) -> None:
        if not self.leave_out_damaged:
            raise error
        print(f"warning: {error.name} is left out, and is made and sent again: {error}", file=sys.stderr)

    def _fetch(self, wanted: dict[str, Entry]) -> None:
        if not wanted:
            return
        bar = ByteBar(f"copying {self.remote.url}", sum(entry.size for entry in wanted.values()))
        try:
            for name, found in each(partial(self._file, bar), sorted(wanted.items()), self.stop):
                if isinstance(found, Damaged):
                    self._refuse(found)
                else:
                    self.record.files[name] = found
        except OSError as error:
            raise PipelineError(
                f"cannot write {error.filename or self.folder}: {error.strerror or error}; free some room, or set "
                "XDG_CACHE_HOME to a folder with room, and run the same command again, which goes on from here"
            ) from error
        finally:
            moved = bar.close()
            with suppress(StoreError):  # without a record, files that are here are compared by their sha256
                write_record(self.folder, self.record)
        print(f"copied {self.remote.url}: {len(wanted):,} files, {moved}", file=sys.stderr, flush=True)

    def _file(self, bar: ByteBar, wanted: tuple[str, Entry]) -> tuple[str, Same | Damaged]:
        """Copy a file, unless the one that is here is the same."""
        name, entry = wanted
        file = self.folder / name
        if entry.sha256 and file.is_file() and file.stat().st_size == entry.size:
            here = same_as(file)
            if here.sha256 == entry.sha256:
                bar.move(entry.size)
                return name, here
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{''.join(filter(str.isalnum, entry.version))[:16]}.tmp")
        self._parts(name, entry, part, bar)
        if self.stop.is_set():
            raise PipelineError(f"copying {self.remote.url} was stopped: the same command goes on from here")
        found = same_as(part, entry.version)
        if entry.sha256 and found.sha256 != entry.sha256:
            part.unlink()
            return name, Damaged(name, self.remote.url, "its sha256 is not that of the file that was sent")
        sync(part)
        os.replace(part, file)
        return name, found

    def _parts(self, name: str, entry: Entry, part: Path, bar: ByteBar) -> None:
        """Append what a partial file lacks."""
        with part.open("ab") as opened:
            start = opened.tell()
            if start > entry.size:
                opened.truncate(start := 0)
            bar.move(start)
            while start < entry.size and not self.stop.is_set():
                ends = range(start, entry.size, PART_BYTES)[:PARTS_AT_ONCE]
                wanted = [(first, min(first + PART_BYTES, entry.size)) for first in ends]
                for data, (first, end) in zip(self.remote.read_parts(name, wanted), wanted, strict=True):
                    if len(data) != end - first:
                        raise PipelineError(
                            f"{self.remote.url}/{name} was changed while it was copied: try again"
                        )
                    opened.write(data)
                    bar.move(len(data))
                opened.flush()
                start = opened.tell()

    def _verify(self) -> None:
        """Check a store that came without a list by its own checksums. Raises CorruptStore."""
        if (self.folder / "zarr.json").exists() and not archive_of(
            self.folder
        ):  # an archive is checked as it is decoded
            store = open_store(self.folder)
            for name in store.splits:
                store.split(name).verify()
