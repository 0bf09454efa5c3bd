"""The paper's tables are complete and consistent."""

import pytest

from pipeline.models.students import STUDENTS
from pipeline.objectives.registry import OBJECTIVES
from pipeline.report.paper import (
    ANCHORS,
    CACHED,
    COLUMNS,
    FEW_LABELS,
    LIVE,
    MAIN,
    MOCO,
    ROWS,
    SIMCLR,
    SWAV,
    TAU,
    TEACHER,
    TRANSFER,
    paper_row,
)
from pipeline.teachers.registry import TEACHERS


@pytest.mark.parametrize(
    ("teacher", "student", "objective", "linear", "nn1", "ca"),
    [
        (MOCO, "resnet18", "1q", 62.6, 53.5, 33.0),
        (MOCO, "mobilenet_v2", "crd", 54.1, 36.0, 12.0),
        (MOCO, "alexnet", "reg", 49.9, 35.6, 9.5),
        (SIMCLR, "resnet50", "2q", 71.0, 63.0, 41.1),
        (SIMCLR, "alexnet", "1q", 59.0, 50.7, 27.6),
        (SWAV, "resnet18", "reg-bn", 60.6, 47.6, 20.8),
        (SWAV, "resnet18", TEACHER, 75.6, 60.7, 27.6),
    ],
)
def test_a_cell_stands_in_its_column(
    teacher: str, student: str, objective: str, linear: float, nn1: float, ca: float
) -> None:
    row = paper_row(teacher, student, objective)
    assert row is not None
    found = {metric: row.metrics[metric] for metric in ("linear", "nn1", "ca")}
    assert found == {"linear": linear, "nn1": nn1, "ca": ca}


def test_the_main_table_is_whole() -> None:
    table = [row for row in ROWS if row.where == MAIN]
    # Eight lines of five columns, less the four cells that the paper leaves empty.
    assert len(table) == 8 * 5 - 4
    assert len({(row.teacher, row.student, row.objective) for row in table}) == len(table)
    assert all(0 < value < 100 for row in table for value in row.metrics.values())


def test_every_name_is_one_of_the_registries() -> None:
    for row in (*ROWS, *TRANSFER, *FEW_LABELS):
        assert row.teacher in TEACHERS
        assert row.student in STUDENTS
        assert row.objective in {*OBJECTIVES, TEACHER}


def test_the_tables_agree_with_one_another() -> None:
    labels = {
        (student, tuple(row.metrics.values()))
        for (teacher, student) in COLUMNS
        if (row := paper_row(teacher, student, "supervised"))
    }
    assert len(labels) == len({student for student, _ in labels}), "a supervised student has no teacher"
    live = paper_row(MOCO, "resnet18", "2q")
    assert live is not None
    assert LIVE.items() <= live.metrics.items()
    assert all(CACHED[metric] < LIVE[metric] for metric in LIVE)
    assert max(TAU, key=lambda tau: TAU[tau]) == 0.04
    assert [*ANCHORS.values()] == sorted(ANCHORS.values())


def test_further_tables_join_their_row() -> None:
    row = paper_row(MOCO, "alexnet", "1q")
    assert row is not None
    assert row.metrics["linear"] == 57.5
    assert row.metrics["voc_detection"] == 59.3
    assert paper_row(MOCO, "alexnet", "seed") is None
