import io
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.errors import PipelineError, WrongUse
from pipeline.results.markdown_file import write_into
from pipeline.results.records import Result, load_metrics
from pipeline.results.table import gap_closed, markdown_table, provenance_lines, terminal_table


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


def test_seeds_become_mean_and_sample_standard_deviation() -> None:
    values = [0.50, 0.52, 0.57]
    seeds = [result("1q", seed=seed, nn1=value) for seed, value in enumerate(values)]
    seeds[0] = result("1q", seed=0, nn1=0.50, linear=0.6)
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    assert (round(100 * mean, 1), round(100 * deviation, 1)) == (53.0, 3.6)
    rows = cells(markdown_table([*seeds[:2], result("2q", nn1=0.55), seeds[2]]))
    assert rows[1] == ["1q", "53.0 ± 3.6 (n=3)", "-", "**60.0**", "-"]
    assert rows[2] == ["2q", "**55.0**", "-", "-", "-"]


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
        "- 1q: commit abc; command python cli.py eval; versions torch 2 numpy 3; seed 0, 1",
        "- pixels: nothing recorded",
    ]


def test_what_is_the_same_for_all_is_told_once() -> None:
    systems = {"teacher": {"machine": "m", "store": "a"}, "1q": {"machine": "m", "store": "b", "seed": 0}}
    results = [Result(name=name, metrics={}, provenance=origin) for name, origin in systems.items()]
    assert provenance_lines(results) == ["- all: machine m", "- teacher: store a", "- 1q: store b; seed 0"]


def test_a_metrics_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    content = {"format": 1, "name": "1q", "metrics": {"nn1": 0.53, "ca": 1}, "provenance": {"seed": 0}}
    path.write_text(json.dumps(content))
    expected = Result(name="1q", role="student", metrics={"nn1": 0.53, "ca": 1}, provenance={"seed": 0})
    assert load_metrics(path) == expected
    path.write_text(json.dumps({**content, "role": "teacher"}))
    assert load_metrics(path).role == "teacher"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "has format 2, expected 1"),
        ({"name": None}, "has no name or no metrics"),
        ({"metrics": [1]}, "has no name or no metrics"),
        ({"metrics": {"nn1": float("nan")}}, "has nan for nn1"),
        ({"metrics": {"nn1": "0.5"}}, "has '0.5' for nn1"),
        ({"metrics": {"nn1": True}}, "has True for nn1"),
        ({"role": "techer"}, "did you mean 'teacher'"),
    ],
)
def test_a_metrics_file_of_another_form_is_refused(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"format": 1, "name": "1q", "metrics": {}, **change}))
    with pytest.raises(PipelineError, match=sentence):
        load_metrics(path)


@pytest.mark.parametrize(("text", "sentence"), [("{", "is not JSON"), ("[]", "has format None")])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(PipelineError, match=sentence):
        load_metrics(path)


def test_a_missing_metrics_file_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="eval"):
        load_metrics(tmp_path / "metrics.json")


PAGE = (
    "# Title\r\n\n<!-- results:demo -->\nold\n<!-- /results:demo -->\ntext ü\n"
    "<!-- results:x --><!-- /results:x -->"
)


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_bytes(PAGE.encode())
    for _ in range(2):
        write_into(page, "demo", "| new |\n")
        assert page.read_bytes().decode() == PAGE.replace("old", "| new |")
    write_into(page, "x", "y")
    assert page.read_bytes().decode().endswith("<!-- results:x -->\ny\n<!-- /results:x -->")
    assert list(tmp_path.iterdir()) == [page]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    page, link = tmp_path / "README.md", tmp_path / "link.md"
    page.write_bytes(PAGE.encode())
    link.symlink_to(page)
    write_into(link, "demo", "new")
    assert link.is_symlink()
    assert "new" in page.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "<!-- results:demo --> only",
        "<!-- /results:demo --><!-- results:demo -->",
        "<!-- results:demo --><!-- results:demo --><!-- /results:demo -->",
        "<!-- results:demo --><!-- /results:demo --><!-- /results:demo -->",
    ],
)
def test_markers_that_are_not_one_pair_are_wrong_use(tmp_path: Path, text: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(WrongUse, match="needs one <!-- results:demo -->"):
        write_into(page, "demo", "new")
    assert page.read_text() == text


def test_a_missing_page_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="there is no"):
        write_into(tmp_path / "README.md", "demo", "new")


def test_a_gap_within_the_noise_has_no_shares() -> None:
    assert gap_closed(0.81, untrained=0.797, teacher=0.802) is None
    assert gap_closed(0.75, untrained=0.5, teacher=1.0) == 0.5
