"""`pack`: images into a dataset folder, one split after the other, dataset.json last."""

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cache.durable import remove_leftovers_within
from cache.identity import identity_difference
from cache.lock import folder_held
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.dataset_json import damaged_files, read_description, write_description
from pipeline.images.pack_split import pack_split
from pipeline.images.sources import SPLITS, Source, escape, open_sources
from pipeline.images.split_identity import current_identity
from pipeline.images.split_table import read_made_of
from pipeline.settings.commands import PackConfig

DISK_FAULTS = (errno.ENOSPC, errno.EIO)


def pack(config: PackConfig) -> Dataset:
    """Write the dataset folder config.out from the images in config.data, and open it.

    Every image is decoded before the .beton is written; an unreadable one keeps its row, as a gray image. An
    interrupted pack is resumed. An existing dataset is compared with the images by content: if they are the same,
    only damaged files and the images' location are written again.

    Raises WrongUse when config.out holds a dataset of other images or settings, or other files.
    """
    data, out = config.data, config.out
    if data.resolve() == out.resolve():
        raise WrongUse(f"images and dataset are the same folder, {data}; choose another for the dataset")
    place = escape(str(data.resolve()))
    settings = _settings(config)
    workers = config.workers or len(os.sched_getaffinity(0))
    sources = open_sources(data)
    with sole_packer(out):
        description = read_description(out)
        if description is None:
            clear_leftovers(out, sources)
        else:
            _require_same(out, description, settings, sources, workers)
            faults = damaged_files(out, description)
            if not faults and description["data"] == place:
                print(f"{out} holds these images already; nothing was written")
                return open_dataset(out)
            remove_leftovers_within(out)
            for damaged in faults:
                damaged.unlink(missing_ok=True)
        splits = {name: pack_split(out, name, source, settings, workers) for name, source in sources.items()}
        write_description(out, place, settings, splits)
    return open_dataset(out)


def _settings(config: PackConfig) -> dict[str, Any]:
    return {
        "max_resolution": config.max_resolution,
        "jpeg_quality": config.jpeg_quality,
        "write_mode": config.write_mode,
    }


@contextmanager
def sole_packer(out: Path) -> Iterator[None]:
    """Lock the folder `out`, created if needed, for this process; a folder that stays empty is removed again.

    The lock is on the folder itself: a dataset has no lock file, and a read-only dataset can still be compared.
    Raises WrongUse when another process packs into it or it cannot be created, PipelineError when the disk fails.
    """
    existed = out.exists()
    with ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            mine = held.enter_context(folder_held(out))
        except OSError as error:
            kind = PipelineError if error.errno in DISK_FAULTS else WrongUse
            raise kind(f"cannot make the folder {out}: {error.strerror}") from error
        if not mine:
            raise WrongUse(f"another process packs into {out}; wait for it or choose another folder")
        if not existed:
            held.callback(_remove_if_empty, out)
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def clear_leftovers(out: Path, splits: Collection[str]) -> None:
    """Delete the temporary files of an interrupted pack, and its files of splits other than these.

    Raises WrongUse, and deletes nothing, when the folder holds anything that `pack` did not write.
    """
    files = sorted(out.iterdir())
    leftovers = [file for file in files if file.name.startswith(".") and file.suffix == ".tmp"]
    for file in sorted(set(files) - set(leftovers)):
        if file.stem not in SPLITS.values() or read_made_of(file.with_suffix(".parquet")) is None:
            raise WrongUse(f"{out} is no dataset but holds {file.name}; choose a new or empty folder")
        if file.stem not in splits:
            leftovers.append(file)
    for file in leftovers:
        file.unlink()


def _require_same(
    out: Path, description: dict[str, Any], settings: dict[str, Any], sources: dict[str, Source], workers: int
) -> None:
    """Raise WrongUse unless the dataset in `out` was made from these images with these settings."""
    expected = {"settings": settings, "splits": list(sources)}
    found = {"settings": description["settings"], "splits": list(description["splits"])}
    for split, source in sources.items():
        if found == expected:
            expected[split] = current_identity(split, source, workers)
            found[split] = description["splits"][split]["identity"]
    if found != expected:
        differences = "; ".join(identity_difference(expected, found))
        raise WrongUse(f"{out} was made from other images or settings ({differences}); choose another folder")
