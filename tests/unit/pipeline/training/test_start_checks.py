"""What stops a run only after it has begun is refused before its folder is written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import Dataset, DatasetSplit, open_dataset
from pipeline.images.labelled import label_problem
from pipeline.models.students import build_student
from pipeline.objectives.simreg import SimReg
from pipeline.runtime.device import CPU
from pipeline.runtime.distributed import World
from pipeline.training.distill import distill
from pipeline.training.start_checks import require_compiler, require_trainable_head
from pipeline.training.student_run import StudentRun
from tests.support.training_runs import settings


class Unlabelled(DatasetSplit):
    """A split without labels."""

    @property
    def labels(self) -> np.ndarray:
        return np.full(self.rows, -1)


def unlabelled(split: DatasetSplit) -> DatasetSplit:
    return Unlabelled(**{name: getattr(split, name) for name in split.__dataclass_fields__})


def without_val(dataset: Dataset) -> Dataset:
    return replace(dataset, splits={"train": dataset.splits["train"]})


def with_other_classes(dataset: Dataset) -> Dataset:
    val = dataset.splits["val"]
    other = replace(val, classes=("a", "b"))
    return replace(dataset, splits={**dataset.splits, "val": other})


def with_unlabelled(name: str) -> Callable[[Dataset], Dataset]:
    def change(dataset: Dataset) -> Dataset:
        return replace(dataset, splits={**dataset.splits, name: unlabelled(dataset.splits[name])})

    return change


PROBLEMS = [
    (without_val, "has no split 'val'"),
    (with_unlabelled("train"), "the split 'train' of .* has no labelled image"),
    (with_unlabelled("val"), "the split 'val' of .* has no labelled image"),
    (with_other_classes, "their classes differ"),
]


@pytest.mark.parametrize(("change", "sentence"), PROBLEMS)
def test_evaluation_while_training_needs_labels(
    packed: Path,
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Dataset], Dataset],
    sentence: str,
) -> None:
    changed = change(open_dataset(packed))
    monkeypatch.setattr("pipeline.training.distill.open_dataset", lambda path: changed)
    monkeypatch.setattr("pipeline.training.distill.require_same_images", lambda split, dataset: None)
    monkeypatch.setattr("pipeline.training.distill.open_monitored", lambda *given: None)
    config = settings(packed, cached, tmp_path / "run", eval_every=1)
    with pytest.raises(
        WrongUse, match=f"--eval-every needs labelled images in train and val, but .*{sentence}"
    ):
        distill(config)
    assert not config.run.exists()
    distill(replace(config, eval_every=None, epochs=0))


def test_labels_of_the_rows_that_are_used_count(packed: Path) -> None:
    dataset = open_dataset(packed)
    assert label_problem(dataset) is None
    assert label_problem(dataset, np.arange(1)) is None
    assert "no labelled image" in (label_problem(dataset, np.arange(0)) or "")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": "simreg"}, r"--batch-size 1 is one image per step and rank, .* head of SimReg"),
        (
            {"student": "tests.support.tiny_student:normalized"},
            "cannot be trained on 1 image per step and rank",
        ),
    ],
)
def test_a_batch_of_one_image_is_refused_where_batch_norm_needs_two(
    packed: Path, cached: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    plain = {"student": "tests.support.tiny_student:plain", "batch_size": 1}
    config = settings(packed, cached, tmp_path / "run", **{**plain, **changes})
    with pytest.raises(WrongUse, match=sentence):
        distill(config)
    assert not config.run.exists()
    distill(replace(config, batch_size=80, epochs=1))


def simreg_run(places: tuple[Path, Path, Path], batch_size: int) -> StudentRun:
    """Return one of two ranks of a run. places: dataset, cache and run."""
    student = "tests.support.tiny_student:plain"
    network = build_student(student, image_size=24, seed=0)
    return StudentRun(
        config=settings(*places, student=student, batch_size=batch_size, wd=0.0, optimizer="sgd"),
        student=network,
        objective=SimReg(student_dim=network.dim, teacher_dim=24),
        world=World(size=2),
        device=CPU,
    )


def test_one_image_a_rank_is_refused(packed: Path, cached: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"--batch-size 2 on 2 ranks is one image .* head"):
        require_trainable_head(simreg_run((packed, cached, tmp_path), 2))
    run = simreg_run((packed, cached, tmp_path), 4)
    require_trainable_head(run)


def test_a_compiler_that_does_not_work_is_a_sentence(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(function: object) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            raise RuntimeError("InvalidCxxCompiler: no compiler\nand a stack")

        return call

    monkeypatch.setattr("torch.compile", broken)
    with pytest.raises(PipelineError, match=r"--compile: .* \(InvalidCxxCompiler: no compiler\); install"):
        require_compiler(CPU)
    with pytest.raises(PipelineError, match="--compile"):
        distill(settings(packed, cached, tmp_path / "run", compile=True))
    assert not (tmp_path / "run").exists()
