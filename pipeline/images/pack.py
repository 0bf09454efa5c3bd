"""`pack`: images into a dataset folder."""

import json
import os
from pathlib import Path
from typing import Any

from cache.identity import identity_difference
from pipeline.errors import WrongUse
from pipeline.images.dataset import (
    DESCRIPTION,
    FORMAT,
    Dataset,
    damaged_files,
    open_dataset,
    read_description,
)
from pipeline.images.pack_split import (
    clear_leftovers,
    current_identity,
    pack_split,
    sole_writer,
    temporary,
)
from pipeline.images.sources import Source, escape, open_sources
from pipeline.settings.commands import PackConfig

LARGEST = 16384  # a picture of this side fits into FFCV's largest page


def pack(config: PackConfig) -> Dataset:
    """Write the dataset folder config.out from the images in config.data, and open it.

    Every image is decoded before the .beton is written; one that cannot be keeps its row, as a gray picture.
    A pack that was cut short is gone on with. A dataset that is there already is compared with the images by
    their content: if they are the same, only what is damaged is written again, and where they are now.

    Raises WrongUse when config.out holds a dataset of other images or settings, or something else.
    """
    data, out = config.data, config.out
    if data.resolve() == out.resolve():
        raise WrongUse(f"images and dataset are the same folder, {data}; choose another for the dataset")
    place = escape(str(data.resolve()))
    settings = _settings(config)
    workers = config.workers or len(os.sched_getaffinity(0))
    sources = open_sources(data)
    with sole_writer(out):
        description = read_description(out)
        if description is None:
            clear_leftovers(out, sources)
        else:
            _require_same(out, description, settings, sources, workers)
            faults = damaged_files(out, description)
            if not faults and description["data"] == place:
                print(f"{out} holds these images already; nothing was written")
                return open_dataset(out)
            for damaged in faults:
                damaged.unlink(missing_ok=True)
        splits = {name: pack_split(out, name, source, settings, workers) for name, source in sources.items()}
        description = {"format": FORMAT, "data": place, "settings": settings, "splits": splits}
        with temporary(out / DESCRIPTION) as partial:
            partial.write_text(json.dumps(description, ensure_ascii=False, indent=2) + "\n", "utf-8")
    return open_dataset(out)


def _settings(config: PackConfig) -> dict[str, Any]:
    if not 1 <= config.max_resolution <= LARGEST:
        raise WrongUse(f"max_resolution: expected 1 to {LARGEST} pixels, found {config.max_resolution}")
    if not 1 <= config.jpeg_quality <= 100:
        raise WrongUse(f"jpeg_quality: expected 1 to 100, found {config.jpeg_quality}")
    if config.workers < 0:
        raise WrongUse(f"workers: expected 0 or more, found {config.workers}")
    return {
        "max_resolution": config.max_resolution,
        "jpeg_quality": config.jpeg_quality,
        "write_mode": config.write_mode,
    }


def _require_same(
    out: Path, description: dict[str, Any], settings: dict[str, Any], sources: dict[str, Source], workers: int
) -> None:
    """WrongUse unless the dataset in `out` is made of these images with these settings."""
    expected = {"settings": settings, "splits": list(sources)}
    found = {"settings": description["settings"], "splits": list(description["splits"])}
    for split, source in sources.items():
        if found == expected:
            expected[split] = current_identity(split, source, workers)
            found[split] = description["splits"][split]["identity"]
    if found != expected:
        differences = "; ".join(identity_difference(expected, found))
        raise WrongUse(f"{out} is made of other images or settings ({differences}); choose another folder")
