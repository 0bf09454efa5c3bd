"""A card has the lineage, the metrics and the teacher's licence, and says what is not recorded."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from pipeline.export.export import export_student
from pipeline.models.students import Student
from pipeline.settings.commands import ExportConfig
from tests.support.exported_run import TEACHER, calibrated, distilled, pretrained


@pytest.fixture(scope="module")
def student() -> Student:
    return calibrated("tests.support.tiny_student:plain", 16)


def card_of(run: Path, **settings: bool) -> ModelCard:
    out = run.parent / "student.safetensors"
    export_student(ExportConfig(run=run, out=out, **settings))
    return ModelCard((out.parent / "student.safetensors.card.md").read_text())


def test_the_card_has_the_lineage_from_the_images_to_the_student(student: Student, tmp_path: Path) -> None:
    card = card_of(distilled(tmp_path / "run", student))
    assert card.data.to_dict() == {
        "license": "cc-by-nc-4.0",
        "library_name": "pytorch",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["self-supervised-learning", "knowledge-distillation", "compress", "1q"],
    }
    assert "# tests.support.tiny_student:plain, distilled from `moco_v2_resnet50`" in card.text
    for fact in (
        "45,000 of `train`, 2 classes; id 1a1a1a1a1a1a1a1a",
        "moco.pth.tar",
        "2b" * 8,
        "3c" * 8,
        "ResNet-50",
    ):
        assert fact in card.text
    assert '"objective": "1q"' in card.text
    assert "/home/somebody" not in card.text
    assert "training stopped" not in card.text


def test_a_licence_that_forbids_trade_is_passed_on_with_caution(student: Student, tmp_path: Path) -> None:
    text = card_of(distilled(tmp_path / "run", student)).text
    assert "under CC BY-NC 4.0, which allows no commercial use" in text
    assert "not settled" in text
    assert "surveillance" in text


def test_an_unrecorded_teacher_is_stated(student: Student, tmp_path: Path) -> None:
    card = card_of(distilled(tmp_path / "run", student, teacher=None))
    assert card.data.license == "unknown"
    assert "| teacher | not recorded |" in card.text
    assert "The licence of the teacher's weights is not recorded" in card.text


@pytest.mark.parametrize(
    ("name", "identifier", "sentence"),
    [
        ("simclr_resnet50x4", "apache-2.0", "under Apache-2.0, which allows commercial use"),
        ("timm/resnet50", "unknown", "weights is not recorded (teacher: `timm/resnet50`)"),
        ("demo", "apache-2.0", "under Apache-2.0, which allows commercial use"),
        ("compress_resnet18", "unknown", "set by its authors; derived from MoCo's"),
    ],
)
def test_each_licence_has_its_terms(
    student: Student, tmp_path: Path, name: str, identifier: str, sentence: str
) -> None:
    card = card_of(distilled(tmp_path / "run", student, teacher={**TEACHER, "name": name}))
    assert card.data.license == identifier
    assert sentence in card.text


def test_without_a_teacher_the_licence_is_its_owners_to_choose(student: Student, tmp_path: Path) -> None:
    card = card_of(pretrained(tmp_path / "run", student))
    assert (card.data.license, card.data.tags) == ("unknown", ["self-supervised-learning", "simclr"])
    assert "trained without a teacher" in card.text
    assert "No teacher's weights went into this student" in card.text
    assert "cache of embeddings" not in card.text


def test_its_numbers_are_those_of_the_evaluation(student: Student, tmp_path: Path) -> None:
    run = distilled(tmp_path / "run", student)
    assert "Not evaluated." in card_of(run).text
    metrics = {"nn1": 0.6478, "odd|name": 0.5}
    provenance = {"command": "python cli.py eval", "commit": "abc"}
    record = {"format": 1, "name": "s", "role": "student", "metrics": metrics, "provenance": provenance}
    (run / "metrics.json").write_text(json.dumps(record))
    text = card_of(run).text
    assert "| nn1 | 64.8 |" in text
    assert r"| odd\|name | 50.0 |" in text
    assert "- commit: abc" in text
    assert "Not evaluated." not in text


def test_the_card_mentions_an_unfinished_run_and_half_precision(student: Student, tmp_path: Path) -> None:
    text = card_of(distilled(tmp_path / "run", student, step=5), half=True).text
    assert "**Its training stopped at step 5 of 8.**" in text
    assert "in float16" in text
