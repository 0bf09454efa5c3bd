"""The report's page in a browser: its content shows, it loads nothing from the network, and it runs no script."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from pipeline.report.page import report
from pipeline.settings.commands import ReportConfig
from tests.support.hostile_report import hostile_report
from tests.support.report_targets import EVIL

SECTIONS = [
    *("results", "beside", "curves", "ablations", "clusters"),
    *("neighbours", "furthest", "map", "confusion", "lineage", "paper"),
]


@dataclass(frozen=True, kw_only=True)
class OpenPage:
    """An open page, and what it did while it loaded."""

    page: Page
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> ReportConfig:
    return hostile_report(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def seen(targets: ReportConfig, browser: Browser) -> OpenPage:
    """Open the page from disk on a wide screen, and unfold everything."""
    report(targets)
    return visit(browser, targets.out)


def visit(browser: Browser, path: Path, width: int = 1280, scheme: str = "light") -> OpenPage:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    seen = OpenPage(page=page)
    page.on("console", lambda message: seen.console.append(message.text))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    page.wait_for_load_state("networkidle")
    return seen


def test_the_page_is_silent_and_loads_nothing(seen: OpenPage, targets: ReportConfig) -> None:
    assert seen.console == []
    assert seen.errors == []
    assert seen.dialogs == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [targets.out.as_uri()]


def test_every_section_is_there_with_its_content(seen: OpenPage) -> None:
    found = seen.page.locator("section")
    assert [found.nth(number).get_attribute("id") for number in range(found.count())] == SECTIONS
    assert seen.page.locator(".missing").count() == 0
    for link in seen.page.locator("nav a").all():
        assert seen.page.locator(str(link.get_attribute("href"))).count() == 1
    assert seen.page.locator("#curves svg").count() == 3, "two objectives, and accuracy"
    assert seen.page.locator("#map svg").count() == 4, "the teacher and three students"
    assert seen.page.locator("#confusion table").count() == 4


def test_every_image_shows(seen: OpenPage) -> None:
    widths = seen.page.evaluate("[...document.images].map(image => image.naturalWidth)")
    # Clusters of three students, 8 queries with five neighbours of each of four systems, and 8 images of each student
    # with five neighbours of its own and five of its teacher's; 24 px as packed.
    assert len(widths) == 3 * 4 * 10 + 8 * (1 + 4 * 5) + 3 * 8 * (1 + 2 * 5)
    assert set(widths) == {24}


def test_numbers_are_means_over_seeds_beside_the_papers(seen: OpenPage) -> None:
    cells = [row.locator("th, td").all_inner_texts() for row in seen.page.locator("#results table tr").all()]
    assert cells[0] == ["system", "1-NN", "20-NN", "linear", "CA"]
    # 0.5 and 0.6: mean 0.55, sample std 0.0707
    near = "55.0 ± 7.1 (n=2)"
    assert ["resnet18 1q, tau 0.04", near, "-", near, "-"] in cells
    beside = [row.locator("th, td").all_inner_texts() for row in seen.page.locator("#beside tbody tr").all()]
    assert ["resnet18 1q, tau 0.04", "1-NN", "53.5", near, "+1.5", "120 images, 4 classes"] in beside


def test_names_are_shown_as_text(seen: OpenPage) -> None:
    page = seen.page
    assert page.locator("script, b b, section i i").count() == 0
    assert page.locator("img[src='x']").count() == 0
    titles = page.evaluate(
        "[...document.querySelectorAll('#neighbours figure img')].map(image => image.title)"
    )
    assert titles
    assert all(title.endswith('"><script>alert(1)<\n.png') for title in titles)
    labels = page.evaluate(
        "[...document.querySelectorAll('#confusion tbody th')].map(cell => cell.textContent)"
    )
    assert set(labels) == {name.replace("/", "\N{DIVISION SLASH}") for name in EVIL}
    assert '"></title><img src=x onerror=alert(3)> 2q' in page.locator("#results table").first.inner_text()
    assert "</title><img src=x" in page.title()


@pytest.mark.parametrize("width", [390, 1280])
def test_only_wide_tables_overflow(
    targets: ReportConfig, browser: Browser, seen: OpenPage, width: int
) -> None:
    opened = visit(browser, targets.out, width=width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.close()


def test_light_and_dark(targets: ReportConfig, browser: Browser, seen: OpenPage) -> None:
    colours = []
    for scheme in ("light", "dark"):
        opened = visit(browser, targets.out, scheme=scheme)
        background, ink, line = (
            brightness(opened.page.evaluate(f"getComputedStyle({element}).{what}"))
            for element, what in (
                ("document.body", "backgroundColor"),
                ("document.body", "color"),
                ("document.querySelector('#curves svg text')", "fill"),
            )
        )
        assert abs(background - ink) > 150
        assert abs(background - line) > 80
        colours.append(background)
        opened.page.close()
    assert colours[0] > 200 > 60 > colours[1]


def brightness(colour: str) -> float:
    """The mean of "rgb(r, g, b)"."""
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3
