"""Settings of `plan`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.settings.field import PRECISIONS, READ, CommandSettings, argument, setting

RATES: dict[str, Any] = {"minimum": 1e-3, "maximum": 1e9}


@dataclass(frozen=True, kw_only=True)
class PlanConfig(CommandSettings):
    """Settings of `plan`."""

    dataset: Path | None = argument(
        "dataset folder written by `pack`, unless --images is given", default=None, url=READ
    )
    images: int | None = setting(None, "number of training images, instead of a DATASET")
    val_images: int = setting(0, "with --images: number of validation images")
    picture_bytes: int | None = setting(None, "with --images: average bytes per image in its .beton")
    teacher: str = setting("demo", "teacher, named as for cache-teacher; its weights are not needed")
    teacher_size: int | None = setting(
        None, "input size of the teacher, in pixels. Default: the teacher's own"
    )
    teacher_batch_size: int = setting(128, "images per forward pass of the teacher", minimum=1)
    teacher_amp_dtype: str = setting("fp32", "precision of the teacher's forward pass", choices=PRECISIONS)
    student: str = setting("resnet18", "student, named as for distill")
    image_size: int = setting(224, "input size of the student, in pixels", minimum=1)
    objective: str = setting("1q", "training objective", choices=("1q", "2q"))
    anchors: str | None = setting(
        None, "number of anchor points K, or all. Default: 128,000, or every image if fewer"
    )
    head_dim: int | None = setting(
        None, "objective 2q: width of a linear head on the student. Default: no head"
    )
    epochs: int = setting(130, "number of epochs of a student", minimum=1)
    batch_size: int = setting(256, "images per step over all GPUs", minimum=1)
    optimizer: str = setting("sgd", "SGD with momentum 0.9, or AdamW", choices=("sgd", "adamw"))
    amp_dtype: str | None = setting(
        None,
        "precision of the student's training. Default: bf16 on GPUs, and on a CPU that supports it, else fp32",
        choices=PRECISIONS,
    )
    gpus: int | None = setting(
        None, "number of GPUs for both stages. Default: those of this machine; without any, its CPU"
    )
    cores: int | None = setting(
        None, "number of CPU cores that decode images. Default: those of this machine"
    )
    workers: int | None = setting(
        None,
        "threads per GPU that decode images for a student. Default: the cores divided by the GPUs; on the CPU, 1",
        minimum=1,
        keeps_zero=True,
    )
    rate: float | None = setting(
        None,
        "images/s at which one device trains a ResNet-50 at 224 px; others follow by their operations and their kind. "
        "Default: measured on this machine",
        **RATES,
    )
    teacher_rate: float | None = setting(
        None, "images/s of the teacher on one device. Default: derived from --rate", **RATES
    )
    student_rate: float | None = setting(
        None, "images/s of the student's training on one device. Default: derived from --rate", **RATES
    )
    decode_rate: float | None = setting(
        None,
        "with rates: images/s decoded per core for the teacher. Default: decoding takes no time",
        **RATES,
    )
    load_rate: float | None = setting(
        None,
        "with rates: images/s decoded per thread for the student. Default: decoding takes no time",
        **RATES,
    )
    json: bool = setting(False, "print JSON instead of tables")
    out: Path | None = setting(None, "Markdown file NAME.md to write the table into, between its markers")
    name: str = setting("plan", "with --out: name of the markers around the table")
