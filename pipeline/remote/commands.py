"""Commands whose paths may be URLs: what they read is copied here first, and what they wrote is sent there."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from cache.errors import StoreError
from cache.user_folder import url_of
from pipeline.settings import command_line
from pipeline.settings.field import WRITE, options


def command(group: click.Group, name: str, config: type) -> Callable[[Callable[..., None]], click.Command]:
    """Add a command as `command_line.command` does; when its body runs, the paths that are URLs are local copies."""

    def decorate(body: Callable[..., None]) -> click.Command:
        @functools.wraps(body)
        def with_copies(*configs: Any) -> None:
            with copies(*configs):
                body(*configs)

        return command_line.command(group, name, config)(with_copies)

    return decorate


@contextmanager
def copies(*configs: Any) -> Iterator[None]:
    """Copy what settings name by URL; at the end of the context, send what was written. Raises as both do."""
    folders = remote_folders(*configs)
    if not folders:
        yield
        return
    from pipeline.remote.download import copy_here  # here, as most commands need neither fsspec nor a store
    from pipeline.remote.upload import send_rest, sent_meanwhile

    written = [folder for folder, does in folders.items() if does == WRITE]
    for folder in folders:
        is_whole = copy_here(folder, to_write=folder in written)
        if folder in written and not is_whole and _is_archive(folder):
            # an archive is written whole, and not again: this is the end of an earlier sending
            send_rest(folder)
    with ExitStack() as sending:
        for folder in written:
            if folder.suffix == ".zarr":  # the files of a dataset are few, and each takes most of the time
                sending.enter_context(sent_meanwhile(folder))
        yield
    for folder in written:
        send_rest(folder)


def _is_archive(folder: Path) -> bool:
    from cache.metadata import archive_of

    try:
        return archive_of(folder) is not None
    except StoreError:
        return False


def remote_folders(*configs: Any) -> dict[Path, str]:
    """Return the local folder of each URL among settings, and what the command does with it: READ or WRITE."""
    found: dict[Path, str] = {}
    for config in configs:
        for field in options(type(config)):
            does, value = field.metadata["url"], getattr(config, field.name)
            for path in value if isinstance(value, tuple) else (value,):
                if does and path is not None and url_of(path) and found.get(path) != WRITE:
                    found[path] = does
    return found
