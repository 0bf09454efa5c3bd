"""Settings of `browse`."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.field import (
    DASK_SCHEDULER,
    DASK_WORKERS,
    DEVICE,
    MAX_SEED,
    READ,
    CommandSettings,
    argument,
    setting,
)

FEWEST_IMAGES = 5  # a map of fewer shows nothing


@dataclass(frozen=True, kw_only=True)
class BrowseConfig(CommandSettings):
    """Settings of `browse`."""

    targets: tuple[Path, ...] = argument("run folders and caches to look at, side by side", url=READ)
    dataset: Path = setting(help="dataset folder whose images are shown", url=READ)
    split: str = setting("val", "split whose images are shown")
    limit: int = setting(
        50_000, "number of images shown; a random choice of them if there are more", minimum=FEWEST_IMAGES
    )
    port: int = setting(8080, "port on 127.0.0.1 that the page is served on; 0: any free one", maximum=65_535)
    no_open: bool = setting(False, "print the address without opening a browser")
    export: Path | None = setting(
        None,
        "write the map, neighbours and thumbnails to FILE.parquet for Embedding Atlas, and serve nothing",
    )
    weights: Path | None = setting(
        None,
        "the teacher's weights file, as for cache-teacher; needed to find its neighbours of your own image",
    )
    seed: int = setting(
        0, "random seed for the choice of images, their clusters and the maps", maximum=MAX_SEED
    )
    workers: int | None = setting(None, DASK_WORKERS)
    scheduler: str | None = setting(None, DASK_SCHEDULER)
    device: str = setting("auto", DEVICE)
