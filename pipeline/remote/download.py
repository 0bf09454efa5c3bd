"""Copying a dataset or a cache from its URL into the user's cache folder, once."""

import shutil
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from cache.durable import write_file
from cache.errors import StoreError
from cache.metadata import archive_of
from cache.reader import open_store
from cache.user_folder import url_of
from pipeline.errors import PipelineError, WrongUse
from pipeline.remote.contents import (
    STORE_HEAD,
    Contents,
    Entry,
    Record,
    Same,
    read_contents,
    read_record,
    require_whole,
    write_record,
)
from pipeline.remote.one_file import Damaged, fetch_file, part_of
from pipeline.remote.remote_folder import TRIES, RemoteFolder, Unreachable
from pipeline.remote.transfer import ByteBar, alone, each
from pipeline.results.plain_text import human_bytes
from pipeline.settings.local_path import local_path


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
        try:
            _Copy(folder, remote, contents, record, leave_out_damaged=to_write).make()
        except Damaged:
            before, contents = contents, read_contents(remote)
            if contents == before:
                raise
            # its owner has sent another file since the list was read
            require_whole(url, contents)
            _Copy(folder, remote, contents, read_record(folder), leave_out_damaged=False).make()
        if to_write and contents.head is not None and not (folder / STORE_HEAD).exists():
            write_file(folder / STORE_HEAD, contents.head.encode())
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
        if same is None or (same.size, same.version) != (entry.size, entry.version):
            return False  # the size too, as some file systems tell no version
        return same.still(self.folder / name)

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
        self._require_room(wanted)
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
        name, entry = wanted
        return name, fetch_file(self.remote, self.folder, name, entry, bar, self.stop)

    def _require_room(self, wanted: Mapping[str, Entry]) -> None:
        """Raise PipelineError if the disk is too small for what is not here yet, in full or in part."""
        needed = 0
        for name, entry in wanted.items():
            file = self.folder / name
            here = [each.stat().st_size for each in (file, part_of(file, entry)) if each.is_file()]
            needed += max(0, entry.size - sum(here))
        disk = self.folder if self.folder.exists() else self.folder.parent
        if needed > (free := shutil.disk_usage(disk).free):
            raise PipelineError(
                f"copying {self.remote.url} needs {human_bytes(needed)} more, but {disk} has only {human_bytes(free)} "
                "left: free some room, or set XDG_CACHE_HOME to a folder with room"
            )

    def _verify(self) -> None:
        """Check a store that came without a list by its own checksums. Raises CorruptStore."""
        # an archive is checked as it is decoded
        if (self.folder / STORE_HEAD).exists() and not archive_of(self.folder):
            store = open_store(self.folder)
            for name in store.splits:
                store.split(name).verify()
