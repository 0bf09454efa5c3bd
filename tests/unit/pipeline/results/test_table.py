"""Tables of results: rows, seeds, bold cells, the gap closed, and provenance."""

import io
import statistics

import pytest
from rich.console import Console

from pipeline.errors import PipelineError
from pipeline.results.records import Result
from pipeline.results.table import (
    gap_closed,
    markdown_table,
    note_on_datasets,
    provenance_lines,
    table_cells,
    terminal_table,
)


def result(
    name: str, role: str = "student", seed: int | None = 0, dataset: str = "fashion", **metrics: float
) -> Result:
    return Result(name=name, role=role, metrics=metrics, provenance={"seed": seed, "dataset": dataset})


def cells(markdown: str) -> list[list[str]]:
    lines = markdown.splitlines()
    assert set(lines[1]) <= set("|-: ")
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in [lines[0], *lines[2:]]]


THREE = [
    result("MoCo", "teacher", nn1=0.9, nn20=0.91, linear=0.95, ca=0.7),
    result("1q", nn1=0.8, nn20=0.8612, linear=0.8),
    result("scratch", "scratch", nn1=0.5, nn20=0.4, linear=0.80049),
]


def test_rows_keep_their_order_and_the_best_that_is_not_a_teacher_is_bold() -> None:
    assert cells(markdown_table(THREE)) == [
        ["system", "1-NN", "20-NN", "linear", "CA"],
        ["MoCo", "90.0", "91.0", "95.0", "70.0"],
        ["1q", "**80.0**", "**86.1**", "**80.0**", "-"],
        ["scratch", "50.0", "40.0", "**80.0**", "-"],
    ]


def test_the_terminal_shows_the_same_cells() -> None:
    table = terminal_table(THREE)
    rows = zip(*(column.cells for column in table.columns), strict=True)
    shown = [[f"**{cell.plain}**" if cell.style == "bold" else cell.plain for cell in row] for row in rows]
    assert [[column.header for column in table.columns], *shown] == cells(markdown_table(THREE))


def test_names_are_no_markup() -> None:
    results = [result("[bold]a|b[/bold]", nn1=0.5)]
    console = Console(width=80, file=io.StringIO())
    with console.capture() as shown:
        console.print(terminal_table(results))
    assert "[bold]a|b[/bold]" in shown.get()
    assert r"[bold]a\|b[/bold]" in markdown_table(results)


def test_a_column_is_of_what_was_measured() -> None:
    (head, row) = cells(markdown_table([result("1q", nn1=0.5, recall10=0.25, voc07=0.5)]))
    assert (head, row) == (["system", "1-NN", "recall@10"], ["1q", "**50.0**", "**25.0**"])
    assert cells(markdown_table([result("1q")]))[0] == ["system", "1-NN", "20-NN", "linear", "CA"]


def test_seeds_become_mean_and_sample_standard_deviation() -> None:
    values = [0.50, 0.52, 0.57]
    seeds = [result("1q", seed=seed, nn1=value) for seed, value in enumerate(values)]
    seeds[0] = result("1q", seed=0, nn1=0.50, linear=0.6)
    mean, std = statistics.mean(values), statistics.stdev(values)
    assert (round(100 * mean, 1), round(100 * std, 1)) == (53.0, 3.6)
    rows = cells(markdown_table([*seeds[:2], result("2q", nn1=0.55), seeds[2]]))
    assert rows[1] == ["1q", "53.0 ± 3.6 (n=3)", "**60.0**"]
    assert rows[2] == ["2q", "**55.0**", "-"]


def test_a_name_with_two_roles_is_two_systems() -> None:
    rows = cells(markdown_table([result("resnet18", "scratch", nn1=0.5), result("resnet18", nn1=0.6)]))
    assert [row[1] for row in rows[1:]] == ["50.0", "**60.0**"]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (result("1q", seed=0, nn1=0.6), "2 results are named '1q', with seeds 0, 0"),
        (result("1q", seed=1, dataset="cifar", nn1=0.6), "different datasets .fashion, cifar."),
    ],
)
def test_what_must_not_be_averaged_is_refused(other: Result, sentence: str) -> None:
    results = [result("1q", seed=0, nn1=0.5), other]
    for report in (markdown_table, terminal_table, provenance_lines):
        with pytest.raises(PipelineError, match=sentence):
            report(results)


def test_results_of_other_labels_are_called_so() -> None:
    assert note_on_datasets(THREE) == ""
    note = note_on_datasets(
        [*THREE, result("2q", dataset="relabelled", nn1=0.7), Result(name="x", metrics={})]
    )
    assert "MoCo, 1q, scratch (fashion); 2q (relabelled). Run `eval` on all of them." in note


def test_gap_closed_by_hand() -> None:
    assert gap_closed(0.7, 0.5, 0.9) == pytest.approx(0.5)
    assert gap_closed(0.4, 0.5, 0.9) == pytest.approx(-0.25)
    assert gap_closed(0.7, 0.5, 0.5) is None


def test_the_gap_is_a_column_where_both_of_its_ends_are_rows() -> None:
    untrained = result("random", "untrained", nn1=0.4)
    rows = cells(markdown_table([*THREE, untrained, result("no 1-NN", ca=0.2)]))
    assert [row[5] for row in rows] == ["gap closed", "-", "**80.0**", "20.0", "-", "-"]
    for results in (
        THREE,
        [*THREE[1:], untrained],
        [*THREE, untrained, result("other", "untrained", nn1=0.3)],
    ):
        assert "gap closed" not in markdown_table(results)


def test_provenance_names_each_different_value_once() -> None:
    provenance = {"commit": "abc", "command": "python cli.py eval", "versions": {"torch": "2", "numpy": "3"}}
    results = [Result(name="1q", metrics={}, provenance={**provenance, "seed": seed}) for seed in (0, 1)]
    assert provenance_lines([*results, Result(name="pixels", metrics={})]) == [
        "- 1q: commit abc; command python cli.py eval; versions torch 2, numpy 3; seed 0, 1",
        "- pixels: nothing recorded",
    ]


def test_a_name_with_two_roles_has_two_origins() -> None:
    origins = [("teacher", {"store": "a"}), ("student", {"store": "b"})]
    results = [Result(name="x", role=role, metrics={}, provenance=origin) for role, origin in origins]
    assert provenance_lines(results) == ["- x: store a", "- x: store b"]


def test_metrics_whose_titles_coincide_keep_their_own_values() -> None:
    results = [result("x", linear_a=0.1, linear_b=0.2)]
    _, ((_, row),) = table_cells(results, {"linear_a": "linear", "linear_b": "linear"})
    assert [text for text, _ in row] == ["10.0", "20.0"]


def test_shared_provenance_is_listed_once() -> None:
    systems = {"teacher": {"machine": "m", "store": "a"}, "1q": {"machine": "m", "store": "b", "seed": 0}}
    results = [Result(name=name, metrics={}, provenance=origin) for name, origin in systems.items()]
    assert provenance_lines(results) == ["- all: machine m", "- teacher: store a", "- 1q: store b; seed 0"]


def test_a_gap_within_the_noise_has_no_shares() -> None:
    assert gap_closed(0.81, untrained=0.797, teacher=0.802) is None
    assert gap_closed(0.75, untrained=0.5, teacher=1.0) == 0.5
