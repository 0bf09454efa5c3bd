"""Settings of the other commands; those of caches, training and plans have files of their own."""

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

MAX_RESOLUTION = 16_384  # pixels: a square image of this side fits into the largest page of FFCV
PROTOCOLS = ("nn", "linear", "ca", "few-label", "transfer", "fidelity")  # of `eval` on a packed dataset
EXPORT_FORMATS = ("safetensors", "onnx")


@dataclass(frozen=True, kw_only=True)
class DemoDataConfig(CommandSettings):
    """Settings of `demo-data`."""

    out: Path = argument("image folder to write")
    train: int | None = setting(None, "number of training images, balanced over classes. Default: all")
    val: int | None = setting(None, "number of validation images, likewise. Default: all")


@dataclass(frozen=True, kw_only=True)
class PackConfig(CommandSettings):
    """Settings of `pack`."""

    data: Path = argument(
        "folder with train/ and val/, of class folders, of images, of parquet files, of .tar shards, or what Hugging "
        "Face's save_to_disk wrote; or a list of paths (.csv, .parquet)"
    )
    out: Path = argument("dataset folder to write, or its URL", url=WRITE)
    max_resolution: int = setting(
        512, "longest side kept, in pixels; larger images are downscaled", minimum=1, maximum=MAX_RESOLUTION
    )
    jpeg_quality: int = setting(
        90,
        "quality of images encoded as JPEG; JPEG files that fit are stored as they are",
        minimum=1,
        maximum=100,
    )
    write_mode: str = setting(
        "smart",
        "storage format: raw pixels, JPEG, or smart: raw for small images only",
        choices=("smart", "raw", "jpg"),
    )
    image_column: str | None = setting(
        None,
        "tables: column of images, or of a list's paths. Default: image, or the only one that holds images",
    )
    label_column: str | None = setting(
        None, "tables: column of labels. Default: label, or the only one described as class labels"
    )
    val_split: str | None = setting(
        None, "folder or split to take as val, such as test. Default: val or validation"
    )
    relabel: bool = setting(
        False,
        "give an existing dataset of the same images their current labels; caches made from it stay valid",
    )
    workers: int | None = setting(None, "number of processes that read and decode. Default: one per core")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(CommandSettings):
    """Settings of `embed`."""

    data: Path = argument("dataset folder, or a plain folder of images", url=READ)
    out: Path = argument("NAME.zarr for a dataset; NAME.npy or NAME.parquet for a plain folder")
    run: Path | None = setting(
        None, "run folder whose student embeds the images, or a file written by `export`"
    )
    teacher: str | None = setting(
        None, "teacher that embeds the images, instead of --run; named as for cache-teacher"
    )
    weights: Path | None = setting(None, "the teacher's weights file, as for cache-teacher")
    image_size: int | None = setting(None, "input size in pixels. Default: the backbone's own")
    batch_size: int = setting(128, "images per forward pass", minimum=1)
    amp_dtype: str = setting("fp32", "precision of the forward pass", choices=PRECISIONS)
    workers: int | None = setting(None, DASK_WORKERS)
    device: str = setting("auto", DEVICE)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(CommandSettings):
    """Settings of `export`."""

    run: Path = argument("run folder whose student is exported")
    out: Path = argument("file to write, NAME.safetensors or NAME.onnx")
    format: str | None = setting(
        None, "format of OUT. Default: according to its suffix", choices=EXPORT_FORMATS
    )
    half: bool = setting(False, "store weights in float16")
    int8: bool = setting(False, "ONNX: quantize to int8, calibrated on 256 training images of --dataset")
    dataset: Path | None = setting(None, "with --int8: dataset folder. Default: the one of the run", url=READ)


@dataclass(frozen=True, kw_only=True)
class EvalConfig(CommandSettings):
    """Settings of `eval`."""

    targets: tuple[Path, ...] = argument("run folders and caches to compare, one per table row", url=READ)
    dataset: Path = setting(help="dataset folder to evaluate on, or VOCdevkit/VOC2007", url=READ)
    protocol: tuple[str, ...] = setting(
        ("nn", "linear", "ca"),
        "protocols, separated by commas: nn, linear, ca, few-label, transfer, fidelity; on VOC: voc, voc-detection",
    )
    features: str = setting(
        "cached",
        "protocol linear: input of the probe, stored embeddings of centre crops, or random crops through the "
        "backbone as in the paper",
        choices=("cached", "augmented"),
    )
    layer: str | None = setting(
        None,
        "protocol linear: layer inside the student to probe (conv5, layer3, ...), or all. "
        "Default: the student's output",
    )
    labels: tuple[str, ...] = setting(
        ("1shot", "1pct", "10pct"),
        "protocol few-label: images per class or percentages of all, separated by commas",
    )
    draws: int = setting(5, "protocol few-label: random draws per number of shots", minimum=1)
    ca_seeds: int = setting(5, "protocol ca: random starts of k-means; their mean is reported", minimum=1)
    epochs: int = setting(40, "protocol linear: number of epochs", minimum=1)
    batch_size: int = setting(256, "protocol linear: random crops per step", minimum=1)
    detection_epochs: int = setting(30, "protocol voc-detection: number of epochs", minimum=1)
    detection_batch_size: int = setting(8, "protocol voc-detection: images per step", minimum=1)
    detection_lr: float = setting(
        0.02, "protocol voc-detection: learning rate for 16 images, scaled with the batch size"
    )
    detection_size: int = setting(
        600, "protocol voc-detection: shorter side of the images, in pixels", minimum=32
    )
    amp_dtype: str = setting("fp32", "protocol voc-detection: autocast precision", choices=PRECISIONS)
    seed: int = setting(
        0,
        "random seed for the linear probe, the few-label draws, k-means and the images of fidelity",
        maximum=MAX_SEED,
    )
    workers: int | None = setting(None, DASK_WORKERS)
    scheduler: str | None = setting(None, DASK_SCHEDULER)
    json: bool = setting(False, "print JSON instead of a table")
    device: str = setting("auto", DEVICE)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CommandSettings):
    """Settings of `report`."""

    targets: tuple[Path, ...] = argument("run folders, caches, metrics files and sweep recipes", url=READ)
    out: Path = setting(help="NAME.html for a page, or NAME.md to fill in the table between its markers")
    dataset: Path | None = setting(None, "page: dataset folder whose images are shown", url=READ)
    name: str = setting("results", "Markdown: name of the markers around the table")
    seed: int = setting(0, "page: random seed for the choice of images, clusters and maps", maximum=MAX_SEED)


@dataclass(frozen=True, kw_only=True)
class SweepConfig(CommandSettings):
    """Settings of `sweep`."""

    recipe: Path = argument("RECIPE.toml: dataset, cache, rows and grid")
    launcher: str | None = setting(
        None,
        "command that starts each training, such as 'torchrun --standalone --nproc-per-node 8'. "
        "Default: python",
    )
    only: tuple[str, ...] = setting(
        (), "parts of names, separated by commas: run only the matching trials. Default: all"
    )
