"""`pack`: images into a dataset folder, one split after the other, dataset.json last."""

import errno
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cache.durable import remove_leftovers_within
from cache.identity import identity_difference
from cache.lock import folder_held
from cache.user_folder import as_typed
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.dataset_json import damaged_files, read_description, write_description
from pipeline.images.file_names import escape
from pipeline.images.pack_split import pack_split
from pipeline.images.relabel import in_recorded_order, relabel_split
from pipeline.images.scan import content_hashes
from pipeline.images.source_notes import source_notes
from pipeline.images.sources import Source, open_sources
from pipeline.images.split_identity import identity_of
from pipeline.images.split_names import SPLITS
from pipeline.images.split_table import read_made_of
from pipeline.images.tables import Choice
from pipeline.runtime.outputs import require_writable_folder
from pipeline.settings.commands import PackConfig

DISK_FAULTS = (errno.ENOSPC, errno.EIO)
RELABEL = "or, as only names or labels differ, give --relabel: existing caches stay valid"


def pack(config: PackConfig) -> Dataset:
    """Write the dataset folder config.out from the images in config.data, and open it.

    An unreadable image keeps its row, as a gray image. An interrupted pack goes on with the first split that is not
    whole. An existing dataset is compared with the images by content: if they are the same, only damaged files and the
    images' location are written again, and with --relabel their labels.

    Raises WrongUse when config.out holds a dataset of other images or settings, or other files.
    """
    data, out = config.data, config.out
    if data.resolve() == out.resolve():
        raise WrongUse(f"images and dataset are the same folder, {data}; choose another for the dataset")
    place = escape(str((data if data.is_dir() else data.parent).resolve()))
    settings = _settings(config)
    workers = config.workers or len(os.sched_getaffinity(0))
    sources = open_sources(data, _choice(config))
    for note in source_notes(data, sources):
        print(f"warning: {note}", file=sys.stderr)
    with sole_packer(out):
        description = read_description(out)
        if description is None:
            if config.relabel:
                raise WrongUse(
                    f"--relabel: there is no dataset in {out} to relabel; leave it out to pack one"
                )
            require_writable_folder(out)
            clear_leftovers(out, sources)
            entries: dict[str, Any] | None = {
                name: pack_split(out, name, source, settings, workers) for name, source in sources.items()
            }
        else:
            entries = _update(config, description, settings, place, sources, workers)
        if entries is None:
            print(f"{as_typed(out)} holds these images already; nothing was written")
        else:
            write_description(out, place, settings, entries)
    return open_dataset(out)


def _choice(config: PackConfig) -> Choice:
    return Choice(image_column=config.image_column, label_column=config.label_column, val=config.val_split)


def _update(
    config: PackConfig,
    description: dict[str, Any],
    settings: dict[str, Any],
    place: str,
    sources: dict[str, Source],
    workers: int,
) -> dict[str, Any] | None:
    """Write what is damaged in an existing dataset, and with --relabel its labels.

    Returns the splits' new entries for dataset.json, None if there is nothing to do. Raises WrongUse, and writes
    nothing, unless the dataset was made from these images with these settings.
    """
    out, recorded = config.out, description["splits"]
    _require_same(out, _outline(settings, sources), _outline(description["settings"], recorded))
    sources, identities, same_images = _compare(out, sources, workers)
    changed = [name for name in recorded if recorded[name]["identity"] != identities[name]]
    if changed and not (config.relabel and same_images):
        hint = f"; {RELABEL}" if same_images else ""
        _require_same(out, identities, {name: recorded[name]["identity"] for name in recorded}, hint)
    faults = damaged_files(out, description)
    if not changed and not faults and description["data"] == place:
        return None
    require_writable_folder(out)
    remove_leftovers_within(out)
    for name in changed:
        relabel_split(out, name, sources[name], recorded[name], identities[name])
    for damaged in faults:
        if damaged.stem not in changed:
            damaged.unlink(missing_ok=True)
    return {
        name: pack_split(out, name, source, settings, workers, identities[name])
        | _former(recorded[name], identities[name])
        for name, source in sources.items()
    }


def _compare(
    out: Path, sources: dict[str, Source], workers: int
) -> tuple[dict[str, Source], dict[str, Any], bool]:
    """Return the sources in the order of the dataset's rows, their identities, and whether the images are the same."""
    ordered, identities, same_images = {}, {}, True
    for name, source in sources.items():
        hashes = content_hashes(source, workers=workers, title=f"{name}: comparing")
        found = in_recorded_order(out / f"{name}.parquet", source, hashes)
        same_images = same_images and found is not None
        ordered[name], hashes = found or (source, hashes)
        identities[name] = identity_of(name, ordered[name], hashes)
    return ordered, identities, same_images


def _former(recorded: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """Return the field of dataset.json with a split's former identities, the oldest first; {} without any."""
    former = list(recorded.get("formerly", ()))
    if recorded["identity"] != identity and recorded["identity"] not in former:
        former.append(recorded["identity"])
    return {"formerly": former} if former else {}


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
            raise kind(f"cannot make the folder {out}: {error.strerror}; choose another") from error
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
            raise WrongUse(f"{out} is not a dataset but holds {file.name}; choose a new or empty folder")
        if file.stem not in splits:
            leftovers.append(file)
    for file in leftovers:
        file.unlink()


def _outline(settings: dict[str, Any], splits: Iterable[str]) -> dict[str, Any]:
    return {"settings": settings, "splits": list(splits)}


def _require_same(out: Path, expected: dict[str, Any], found: dict[str, Any], hint: str = "") -> None:
    """Raise WrongUse unless what a dataset was made from is as expected. hint: what to do instead."""
    differences = "; ".join(identity_difference(expected, found))
    if differences:
        raise WrongUse(
            f"{out} was made from other images or settings ({differences}); choose another folder{hint}"
        )
