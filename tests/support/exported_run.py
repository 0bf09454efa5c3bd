"""Run folders for export, as `distill` and `pretrain` write them, without training."""

from pathlib import Path
from typing import Any

import torch

from pipeline.models.student_file import save_student
from pipeline.models.students import Student, build_student
from pipeline.results.run_record import open_run
from pipeline.settings.field import as_json
from pipeline.settings.training import DistillConfig, PretrainConfig

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
    """Build a student with estimated BatchNorm statistics: with initial ones, features may be 1e-9 in eval mode."""
    student = build_student(name, image_size=image_size, seed=0)
    for layer in student.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # cumulative average
    with torch.no_grad():
        student(torch.randn(32, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)))
    return student.eval()


def distilled(run: Path, student: Student, teacher: dict[str, Any] | None = TEACHER, step: int = 8) -> Path:
    """Write a run that stopped at `step` of 8. teacher: None for an older run, whose teacher is not recorded."""
    made_of = {"dataset": DATASET, "cache": "3c" * 32} | ({"teacher": teacher} if teacher else {})
    config = DistillConfig(
        dataset=Path("/home/somebody/dataset"), cache=Path("c.zarr"), run=run, student=student.name
    )
    open_run(run, "distill", as_json(config), made_of)
    save_student(run, student, {"step": str(step), "steps": "8"})
    return run


def pretrained(run: Path, student: Student) -> Path:
    """Write a finished run without a teacher."""
    config = PretrainConfig(dataset=Path("d"), run=run, student=student.name)
    open_run(run, "pretrain", as_json(config), {"dataset": DATASET})
    save_student(run, student, {"step": "8", "steps": "8"})
    return run
