"""The report as a page or a Markdown table, without a browser."""

from pathlib import Path

import pytest

from pipeline.errors import WrongUse
from pipeline.report.page import render, report
from pipeline.settings.commands import ReportConfig
from tests.support.hostile_report import hostile_report
from tests.support.report_targets import write_metrics


def test_without_a_dataset_the_images_are_not_shown(tmp_path: Path) -> None:
    targets = hostile_report(tmp_path).targets
    page = render(ReportConfig(targets=targets, out=tmp_path / "a.html"))
    assert page.count("Not shown: no dataset was given") == 5
    assert "<img" not in page


def test_a_lone_metrics_file_makes_a_page(tmp_path: Path) -> None:
    write_metrics(tmp_path / "a.json", "1q", {"nn1": 0.5}, seed=0)
    page = render(ReportConfig(targets=(tmp_path / "a.json",), out=tmp_path / "a.html"))
    assert '<th scope="row">1q</th><td><b>50.0</b></td>' in page
    assert "Not shown: no system here is a run with a training log." in page
    assert "Not shown: no two evaluated runs here differ only in their temperature" in page
    assert "0.04: 46.8" in page, "the paper's values are in the appendix"


def test_a_file_name_that_is_no_text_is_written_by_its_number(tmp_path: Path) -> None:
    write_metrics(tmp_path / "a.json", "\udcff", {"nn1": 0.5}, seed=0)
    report(ReportConfig(targets=(tmp_path / "a.json",), out=tmp_path / "a.html"))
    assert "\\udcff" in (tmp_path / "a.html").read_text("utf-8")


def test_markdown_goes_into_its_markers_and_other_files_are_refused(tmp_path: Path) -> None:
    write_metrics(tmp_path / "a.json", "1q", {"nn1": 0.5}, seed=0)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:results -->\n<!-- /results:results -->\n")
    report(ReportConfig(targets=(tmp_path / "a.json",), out=readme))
    assert "| 1q | **50.0** |" in readme.read_text()
    with pytest.raises(WrongUse, match=r"ends in \.html"):
        report(ReportConfig(targets=(tmp_path / "a.json",), out=tmp_path / "a.txt"))


def test_a_page_that_cannot_be_written_is_refused_before_any_figure_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(config: ReportConfig) -> str:
        raise AssertionError("made before the output was tried")

    monkeypatch.setattr("pipeline.report.page.render", too_late)
    (tmp_path / "file").touch()
    with pytest.raises(WrongUse, match=r"cannot write .*a\.html"):
        report(ReportConfig(targets=(), out=tmp_path / "file" / "a.html"))
