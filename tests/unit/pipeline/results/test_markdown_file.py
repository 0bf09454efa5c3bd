"""Only the text between a pair of markers changes."""

from pathlib import Path

import pytest

from pipeline.errors import WrongUse
from pipeline.results.markdown_file import write_into

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


def test_a_page_in_another_encoding_is_wrong_use(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_bytes("<!-- results:demo -->é<!-- /results:demo -->".encode("latin1"))
    with pytest.raises(WrongUse, match=r"README\.md is not UTF-8 text"):
        write_into(page, "demo", "new")
