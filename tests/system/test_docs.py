"""README and docs: their links lead to files, their commands exist, their Python runs, their tables are current."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from tests.benchmarks.tables import benchmarks_table, headline_table

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "recipes" / "README.md"],
    key=lambda page: page.as_posix(),
)
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|&& )(?:[A-Z_]+=\S+ )?(?:python|torchrun .*?) ?cli\.py (.*)")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands() -> Iterator[tuple[str, str]]:
    """The page and the arguments of every command of a code block."""
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.splitlines():
                if found := COMMAND.match(line.removesuffix(" &")):
                    yield named(page), found[1]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(("page", "arguments"), list(commands()))
def test_every_command_takes_its_flags(page: str, arguments: str) -> None:
    words = [word for word in shlex.split(arguments, comments=True) if word != "..."]
    result = CliRunner().invoke(cli.main, [*words, "--help"])
    assert result.exit_code == 0, result.output


def test_there_are_commands_to_check() -> None:
    assert len(list(commands())) > 40


def test_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 220


def test_the_python_of_readme_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for path, golden in (("runs/r18/embeddings.zarr", "teacher.zarr"), ("caches/mine.zarr", "teacher.zarr")):
        assert path in code
        code = code.replace(path, str(GOLDEN / golden))
    code = code.replace("runs/r18", str(GOLDEN / "run")).replace("256", "4")
    code = code.replace("image.jpg", str(GOLDEN / "pictures/val/rising/0.png"))
    found: dict[str, object] = {}
    exec(code, found)
    assert abs(float(found["loss"])) < 1e-4  # both sides are the teacher's
    assert found["features"].shape[0] == 1


@pytest.mark.parametrize(
    ("page", "name", "expected"),
    [("README.md", "headlines", headline_table), ("docs/benchmarks.md", "bench", benchmarks_table)],
)
def test_the_tables_are_those_of_the_kept_figures(page: str, name: str, expected) -> None:
    text = (ROOT / page).read_text()
    written = text.partition(f"<!-- results:{name} -->\n")[2].partition(f"\n<!-- /results:{name} -->")[0]
    assert written == expected().strip(), "run `make readme`"
