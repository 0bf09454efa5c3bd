"""Run folders as `distill` and `pretrain` leave them, without the training: what export reads."""

from pathlib import Path
from typing import Any

import torch

from pipeline.models.student_file import save_student
from pipeline.models.students import Student, build_student
from pipeline.results.run_record import open_run
from pipeline.settings.commands import DistillConfig, PretrainConfig
from pipeline.settings.field import as_json

DATASET = {"split": "train", "rows": 45000, "classes": ["cat", "dog"], "images": "1a" * 32}
TEACHER = {
    "name": "moco_v2_resnet50",
    "file": "moco.pth.tar",
    "architecture": "ResNet-50",
    "weights": "2b" * 32,
    "feature": "global average pool",
    "dim": 2048,
    "preprocessing": {"resize": 256, "crop": 224, "mean": [0.485, 0.456, 0.406]},
}


def calibrated(name: str, image_size: int) -> Student:
    """A student whose normalisations have seen images, since a fresh one's features may be 1e-9 in eval mode."""
    student = build_student(name, image_size=image_size, seed=0)
    for layer in student.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        student(torch.randn(32, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)))
    return student.eval()


def distilled(run: Path, student: Student, teacher: dict[str, Any] | None = TEACHER, step: int = 8) -> Path:
    """A finished run (or one that stopped before step 8); teacher None: as runs were before they told theirs."""
    made_of = {"dataset": DATASET, "cache": "3c" * 32} | ({"teacher": teacher} if teacher else {})
    config = DistillConfig(
        dataset=Path("/home/somebody/dataset"), cache=Path("c.zarr"), run=run, student=student.name
    )
    open_run(run, "distill", as_json(config), made_of)
    save_student(run, student, {"step": str(step), "steps": "8"})
    return run


def pretrained(run: Path, student: Student) -> Path:
    """A run without a teacher."""
    config = PretrainConfig(dataset=Path("d"), run=run, student=student.name)
    open_run(run, "pretrain", as_json(config), {"dataset": DATASET})
    save_student(run, student, {"step": "8", "steps": "8"})
    return run
