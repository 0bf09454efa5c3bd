"""Sending what a command has written to its URL: file by file, and the list that makes it whole last."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.errors import StoreError
from cache.metadata import archive_of
from cache.user_folder import url_of
from pipeline.errors import PipelineError
from pipeline.remote.contents import (
    HEADS,
    STORE_HEAD,
    Record,
    Same,
    local_names,
    read_record,
    same_as,
    write_list,
    write_record,
)
from pipeline.remote.remote_folder import RemoteFolder
from pipeline.remote.transfer import ByteBar, alone, each

MEANWHILE_S = 15.0  # between two sendings while a command works
LIST_EVERY_S = 5.0  # or so many times as long as listing takes, which grows with the number of files:
LIST_SHARE = 20


@contextmanager
def sent_meanwhile(folder: Path) -> Iterator[None]:
    """Within the context, a thread sends files as they are finished; a failure is a warning, as more follows later."""
    stop = threading.Event()
    thread = threading.Thread(target=_send_repeatedly, args=(folder, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _send_repeatedly(folder: Path, stop: threading.Event) -> None:
    pause = MEANWHILE_S
    while not stop.wait(pause):
        start = time.monotonic()
        try:
            _send(folder, stop=stop)
        except (PipelineError, StoreError, OSError) as error:
            print(
                f"\nwarning: {error}; what is computed stays in {folder} meanwhile",
                file=sys.stderr,
                flush=True,
            )
        pause = max(MEANWHILE_S, 10 * (time.monotonic() - start))


def send_rest(folder: Path) -> None:
    """Send all files of a local folder that its URL does not have yet, then the list that says that it is whole.

    Raises PipelineError, which says that the files are still here.
    """
    try:
        _send(folder, stop=None)
    except PipelineError as error:
        raise type(error)(f"{error}; all that was computed is kept on this machine") from error


def _send(folder: Path, stop: threading.Event | None) -> None:
    """Send what is new. stop: ends the sending before its end; None: send all, show a bar, and finish the list."""
    url = url_of(folder)
    assert url is not None, folder
    with alone(folder):
        record, names = read_record(folder), local_names(folder)
        known = {name: record.files[name] for name in names if name in record.files}
        same = {name: each for name, each in known.items() if each.still(folder / name)}
        new = [name for name in names if name not in same]
        if stop is not None:  # a head says to other programs that all is there
            new = [name for name in new if name not in HEADS]
        if not new and (stop or (record.whole and known.keys() == record.files.keys())):
            return
        remote = RemoteFolder(url)
        total = sum((folder / name).stat().st_size for name in new)
        bar = ByteBar(f"sending {url}", total, shown=stop is None)
        sending = _Sending(folder, remote, Record(files=same), stop, bar)
        try:
            sending.mark_as_partial()  # half of it is new from now on
            sending.send(new)
        finally:
            moved = bar.close()
        if stop is None:
            sending.finish(names)
            print(f"sent {url}: {len(new):,} files, {moved}", file=sys.stderr, flush=True)


class _Sending:
    """One sending. record: of what is there, with the files that have arrived."""

    def __init__(
        self, folder: Path, remote: RemoteFolder, record: Record, stop: threading.Event | None, bar: ByteBar
    ) -> None:
        self.folder, self.remote, self.record, self.stop, self.bar = folder, remote, record, stop, bar

    def send(self, names: list[str]) -> None:
        """Send files, a head after all others; what has arrived is listed every few seconds, and at the end."""
        due = time.monotonic() + LIST_EVERY_S
        heads = [name for name in names if name in HEADS]
        for group in ([name for name in names if name not in HEADS], heads):
            for name, same in each(self._file, group):
                if same is not None:
                    self.record.files[name] = same
                if time.monotonic() > due:
                    start = time.monotonic()
                    self._list()
                    due = time.monotonic() + max(LIST_EVERY_S, LIST_SHARE * (time.monotonic() - start))
            if self.stop is not None and self.stop.is_set():
                break
        self._list()

    def finish(self, names: list[str]) -> None:
        """Finish the list. Raises PipelineError unless every file is there with its size."""
        listing = self.remote.listing()
        lost = [
            name
            for name in names
            if name not in self.record.files or listing.get(name, (None,))[0] != self.record.files[name].size
        ]
        if lost:
            self.record.files = {name: same for name, same in self.record.files.items() if name not in lost}
            write_record(self.folder, self.record)
            raise PipelineError(
                f"{len(lost)} files have not arrived at {self.remote.url} as they are here, such as {lost[0]}: run the "
                "same command again, which sends these"
            )
        write_list(self.remote, self.record.files, whole=True)
        self.record.whole = True
        write_record(self.folder, self.record)

    def mark_as_partial(self) -> None:
        """Write the list of what has arrived, which is not all."""
        write_list(self.remote, self.record.files, whole=False, head=_store_head(self.folder))

    def _list(self) -> None:
        self.mark_as_partial()
        write_record(self.folder, self.record)

    def _file(self, name: str) -> tuple[str, Same | None]:
        if self.stop is not None and self.stop.is_set():
            return name, None
        file = self.folder / name
        same = same_as(file)
        self.remote.send(name, file, self.bar.move)
        return name, same if same.still(file) else None  # it may have been replaced meanwhile


def _store_head(folder: Path) -> str | None:
    """Return the head of a store, with which a fresh machine goes on before the head itself is sent.

    None for a dataset and an archive, which are made at once: with their head a part of one would count as all of it.
    """
    try:
        return (folder / STORE_HEAD).read_text() if archive_of(folder) is None else None
    except (StoreError, OSError):
        return None
