"""Settings of `cache-teacher` and of the commands of `cache`."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.field import (
    DASK_SCHEDULER,
    DASK_WORKERS,
    DEVICE,
    MAX_SEED,
    PRECISIONS,
    READ,
    WRITE,
    CommandSettings,
    argument,
    setting,
)

MAX_VIEWS = 1000


@dataclass(frozen=True, kw_only=True)
class CacheTeacherConfig(CommandSettings):
    """Settings of `cache-teacher`."""

    dataset: Path = argument("dataset folder written by `pack`, or its URL", url=READ)
    cache: Path = argument("store to write or continue, NAME.zarr, or its URL", url=WRITE)
    teacher: str = setting(
        "demo", "teacher: a registered name, timm/NAME, torchvision/NAME or package.module:function"
    )
    weights: Path | None = setting(None, "the teacher's weights file: .safetensors, .pt or .pth")
    image_size: int | None = setting(None, "input size in pixels. Default: the teacher's own")
    split: tuple[str, ...] = setting((), "splits to embed, separated by commas. Default: all")
    views: int = setting(
        0,
        "random crops of each training image to embed beside its centre crop, for distill --replay",
        maximum=MAX_VIEWS,
    )
    crop_scale: tuple[float, float] | None = setting(
        None,
        "with --views: range of a crop's area, as fractions of the image. Default: that of the cache, else 0.08 1.0",
        minimum=0.001,
        maximum=1,
    )
    batch_size: int = setting(
        128, "images per forward pass; recorded, because it affects the last bits of a row", minimum=1
    )
    amp_dtype: str = setting("fp32", "precision of the forward pass", choices=PRECISIONS)
    workers: int | None = setting(None, DASK_WORKERS)
    scheduler: str | None = setting(None, DASK_SCHEDULER)
    device: str = setting("auto", DEVICE)


@dataclass(frozen=True, kw_only=True)
class InfoConfig(CommandSettings):
    """Settings of `cache info`."""

    store: Path = argument("store, NAME.zarr", url=READ)
    json: bool = setting(False, "print JSON instead of tables")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(CommandSettings):
    """Settings of `cache verify`."""

    cache: Path = argument("store to verify, NAME.zarr", url=READ)
    rows: int = setting(0, "number of random rows to recompute from their images and compare")
    dataset: Path | None = setting(None, "dataset folder the store was made from; needed by --rows", url=READ)
    teacher: str | None = setting(None, "the store's teacher. Default: the one recorded in the store")
    weights: Path | None = setting(None, "the teacher's weights file, as for cache-teacher")
    seed: int = setting(0, "random seed for the choice of rows", maximum=MAX_SEED)
    device: str = setting("auto", DEVICE)


@dataclass(frozen=True, kw_only=True)
class RepairConfig(VerifyConfig):
    """Settings of `cache repair`."""

    cache: Path = argument("store to repair, NAME.zarr", url=WRITE)
    dataset: Path = setting(help="dataset folder the store was made from", url=READ)
    workers: int | None = setting(None, DASK_WORKERS)
    scheduler: str | None = setting(None, DASK_SCHEDULER)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(CommandSettings):
    """Settings of `cache convert`."""

    cache: Path = argument("the teacher's store or archive, NAME.zarr", url=READ)
    out: Path = argument("store or archive to write, OTHER.zarr", url=WRITE)
    as_: str = setting(
        help="form of the new one: int8 (half the bytes), int8-rotated, pca:DIM (fewer dimensions) or fp16; or an "
        "archive: zstd, or zstd:BITS, which keeps so many of the 10 bits of each value's mantissa"
    )


@dataclass(frozen=True, kw_only=True)
class CombineConfig(CommandSettings):
    """Settings of `cache combine`."""

    caches: tuple[Path, ...] = argument("stores of the same images, one for each teacher", url=READ)
    out: Path = argument("store to write, NAME.zarr", url=WRITE)
    weights: tuple[str, ...] = setting(
        (), "weight of each teacher's cosine in the combined one, separated by commas. Default: equal"
    )
    uncentered: bool = setting(
        False, "average the teachers' cosines as they are, without bringing them to equal spread"
    )


@dataclass(frozen=True, kw_only=True)
class NeighboursConfig(CommandSettings):
    """Settings of `cache neighbours`."""

    cache: Path = argument("the teacher's store, NAME.zarr", url=WRITE)
    k: int = setting(50, "number of neighbours of each training image", minimum=1)
    device: str = setting("auto", DEVICE)


@dataclass(frozen=True, kw_only=True)
class CompareConfig(CommandSettings):
    """Settings of `cache compare`."""

    caches: tuple[Path, ...] = argument("stores of the same images, NAME.zarr", url=READ)
    rows: int = setting(10_000, "number of training images to compare them on, drawn at random", minimum=20)
    seed: int = setting(0, "random seed for the choice of rows", maximum=MAX_SEED)
    json: bool = setting(False, "print JSON instead of tables")
    device: str = setting("auto", DEVICE)
