"""A sweep as a table: finished rows with their std, the others pending."""

import json
from pathlib import Path

import pytest

from pipeline.errors import WrongUse
from pipeline.report.markdown import write_report

RECIPE = """
dataset = "d"
cache = "c.zarr"
runs = "runs"
references = ["teacher.zarr"]
results = "{results}"
[grid]
seed = [0, 1]
[[row]]
objective = "1q"
[[row]]
objective = "reg"
"""


def put(folder: Path, trial: str, name: str, *, seed: int | None, nn1: float, role: str = "student") -> None:
    folder.mkdir(exist_ok=True)
    provenance = {"seed": seed, "commit": "abc"}
    found = {"format": 1, "name": name, "role": role, "metrics": {"nn1": nn1}, "provenance": provenance}
    (folder / f"{trial}.json").write_text(json.dumps({**found, "seconds": 1800, "settings": {}}))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE.format(results=tmp_path / "results"))
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- results:x -->\n<!-- /results:x -->\nafter\n")
    return path


def table(page: Path) -> list[str]:
    write_report([page.with_name("recipe.toml")], page, "x")
    return page.read_text().splitlines()


def test_before_anything_ran_all_is_pending(page: Path) -> None:
    lines = table(page)
    for name in ("teacher", "1q", "reg"):
        assert f"| {name} | pending | pending | pending | pending |" in lines
    assert any(line.startswith("0 of 4 trials, 0.0 hours") for line in lines)


def test_seeds_that_are_there_are_averaged_and_the_rest_is_pending(page: Path) -> None:
    results = page.with_name("results")
    put(results, "teacher", "teacher x", seed=None, nn1=0.7, role="teacher")
    put(results, "1q-seed0", "1q", seed=0, nn1=0.5)
    put(results, "1q-seed1", "1q", seed=1, nn1=0.6)
    lines = table(page)
    assert "| teacher x | 70.0 |" in lines
    assert "| 1q | **55.0 ± 7.1 (n=2)** |" in lines
    assert "| reg | pending |" in lines
    assert any(
        line.startswith("2 of 4 trials, 1.0 hours of one process: `python cli.py sweep ") for line in lines
    )


def test_a_row_with_one_seed_done_is_not_pending(page: Path) -> None:
    put(page.with_name("results"), "reg-seed1", "reg", seed=1, nn1=0.4)
    lines = table(page)
    assert "| reg | **40.0** |" in lines
    assert "| 1q | pending |" in lines


def test_a_page_without_the_markers_is_refused(page: Path) -> None:
    page.write_text("nothing\n")
    with pytest.raises(WrongUse, match="results:x"):
        table(page)


def test_provenance_goes_where_the_page_has_a_place_for_it(page: Path) -> None:
    page.write_text(page.read_text() + "<!-- results:x-provenance -->\n<!-- /results:x-provenance -->\n")
    put(page.with_name("results"), "1q-seed0", "1q", seed=0, nn1=0.5)
    text = "\n".join(table(page))
    table_part, _, provenance = text.partition("after")
    assert "| 1q | **50.0** |" in table_part
    assert "<details>" not in text
    assert "- 1q: seed 0; commit abc" in provenance


def test_a_store_that_is_a_reference_too_counts_once_and_equal_names_are_told_apart(page: Path) -> None:
    results = page.with_name("results")
    put(results, "teacher", "teacher x", seed=None, nn1=0.7, role="teacher")
    put(results, "1q-seed0", "1q", seed=0, nn1=0.5)
    own = page.with_name("own")
    put(own, "metrics", "1q", seed=0, nn1=0.4)
    put(page.parent, "teacher.metrics", "teacher x", seed=None, nn1=0.7, role="teacher")
    recipe = page.with_name("recipe.toml")
    recipe.write_text(recipe.read_text().replace("teacher.zarr", str(page.with_name("teacher.zarr"))))
    write_report([page.with_name("teacher.zarr"), own, recipe], page, "x")
    lines = page.read_text().splitlines()
    assert "| teacher x | 70.0 |" in lines
    assert "| 1q (metrics.json) | 40.0 |" in lines
    assert "| 1q (1q-seed0.json) | **50.0** |" in lines
