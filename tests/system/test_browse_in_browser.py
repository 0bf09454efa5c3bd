"""`browse` in a browser: neighbours side by side, an image of one's own, clusters, the keyboard, a phone, dark mode."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from pipeline.browse.gallery import open_gallery
from pipeline.browse.server import BrowseServer
from tests.support.browsed import browsed, served

IMAGES = 48
PAINTED = f"#map[data-painted='{IMAGES}']"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowseServer]:
    with served(open_gallery(browsed(tmp_path_factory.mktemp("browsed")))) as running:
        yield running


@pytest.fixture
def page(server: BrowseServer, browser: Browser) -> Iterator[Page]:
    """Open the page on a wide screen; the browser must have nothing to say, and ask no other server."""
    opened, said, asked = visit(browser, server)
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith((f"{server.url}/", f"blob:{server.url}/"))] == []
    opened.close()


def visit(
    browser: Browser, server: BrowseServer, width: int = 1280, scheme: str = "light"
) -> tuple[Page, list[str], list[str]]:
    said: list[str] = []
    asked: list[str] = []
    page = browser.new_page(
        viewport={"width": width, "height": 844},
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.wait_for_selector(PAINTED)
    return page, said, asked


def click_on_the_map(page: Page, server: BrowseServer, index: int) -> None:
    """Click on an image's point, where the page draws it: the map takes 93 % of what is free below the tools."""
    points = server.findings.maps[0]
    assert points is not None
    box, tools = page.locator("#map").bounding_box(), page.locator("#tools").bounding_box()
    assert box
    assert tools
    top = tools["y"] + tools["height"]
    height = box["y"] + box["height"] - top
    scale = 0.93 * min(box["width"], height) / 2
    x, y = points[index].tolist()
    page.mouse.click(box["x"] + box["width"] / 2 + x * scale, top + height / 2 + y * scale)


def columns(page: Page) -> Locator:
    return page.locator("#neighbours .column")


def query_row(page: Page) -> int:
    found = re.search(r"row (\d+)", page.locator(".query figcaption").inner_text())
    assert found
    return int(found[1])


def widths(page: Page, images: str) -> set[int]:
    """Return the widths of all these images; those out of view are loaded too."""
    load = "image => { image.loading = 'eager'; return image.decode().then(() => image.naturalWidth) }"
    return set(page.evaluate(f"Promise.all([...document.querySelectorAll('{images}')].map({load}))"))


def test_a_click_shows_the_neighbours_of_teacher_and_student(page: Page, server: BrowseServer) -> None:
    click_on_the_map(page, server, 17)
    expect(columns(page)).to_have_count(2)
    row = query_row(page)
    assert server.gallery.label(row) == server.gallery.label(17), "the click may have met one drawn above it"
    assert columns(page).locator("h3").all_inner_texts() == [side.name for side in server.gallery.sides]
    for number, near in enumerate(server.gallery.neighbours(row)):
        shown = columns(page).nth(number).locator("button").all()
        assert [int(str(each.get_attribute("data-index"))) for each in shown] == [index for index, _ in near]
    both = {index for index, _ in server.gallery.neighbours(row)[0]}
    both &= {index for index, _ in server.gallery.neighbours(row)[1]}
    assert page.locator(".image.both").count() == 2 * len(both)
    expect(columns(page).nth(1)).to_contain_text(f"{len(both)} of 12 shared with its teacher")
    assert widths(page, "#neighbours .column img") == {24}
    assert all(image.get_attribute("alt") for image in page.locator("#neighbours img").all())


def test_an_image_of_ones_own(page: Page, server: BrowseServer, tmp_path: Path) -> None:
    own = tmp_path / "<b>own.png"
    own.write_bytes(server.gallery.images.source.read(int(server.gallery.rows[30])))
    page.set_input_files("#file", own)
    expect(page.locator(".query strong")).to_have_text("Your image")
    expect(page.locator(".query .path")).to_have_text("<b>own.png")
    assert widths(page, ".query img") == {32}
    expect(columns(page).nth(0)).to_contain_text("Not shown: ")
    assert columns(page).nth(1).locator("button").first.get_attribute("data-index") == "30"


def test_a_file_that_is_no_image_is_a_sentence(server: BrowseServer, browser: Browser) -> None:
    page, said, _ = visit(browser, server)
    page.set_input_files("#file", {"name": "own.png", "mimeType": "image/png", "buffer": b"no image"})
    expect(page.locator("#doing")).to_contain_text("this file cannot be shown")
    assert len(said) == 1, "the browser's own line about the status 422"
    page.close()


def test_an_image_is_dropped(page: Page, server: BrowseServer) -> None:
    page.evaluate(
        """async () => {
        const data = new DataTransfer();
        data.items.add(new File([await (await fetch('/TOKEN/image/3')).blob()], 'dropped.jpg'));
        for (const kind of ['dragenter', 'drop'])
            dispatchEvent(new DragEvent(kind, {dataTransfer: data, cancelable: true}));
        }""".replace("TOKEN", server.gallery.token)
    )
    expect(page.locator(".query .path")).to_have_text("dropped.jpg")
    expect(page.locator("#drop")).to_be_hidden()


def test_clusters_filter_the_map(page: Page, server: BrowseServer) -> None:
    page.get_by_role("tab", name="Clusters").click()
    clusters = page.locator(".cluster")
    expect(clusters).to_have_count(4)
    clusters.nth(1).click()
    expect(page.locator("#chip")).to_contain_text("12 images")
    assert clusters.nth(1).get_attribute("aria-pressed") == "true"
    assert widths(page, ".cluster img") == {24}
    page.locator("#chip").click()
    expect(page.locator("#chip")).to_be_hidden()
    page.locator("#colour").select_option("cluster")
    expect(page.locator("#legend")).to_contain_text("1 \u00b7 ")


def test_everything_with_the_keyboard(page: Page, server: BrowseServer) -> None:
    furthest = server.findings.furthest[1]
    assert furthest
    focused = "document.activeElement.dataset.index"
    page.keyboard.press("3")
    expect(page.locator("#furthest li")).to_have_count(len(furthest.worst))
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == str(furthest.worst[1][0])
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(columns(page)).to_have_count(2)
    first = query_row(page)
    assert first == furthest.worst[0][0]
    near = server.gallery.neighbours(first)
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == str(near[1][1][0])
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == str(near[0][1][0])
    page.keyboard.press("Enter")
    expect(page.locator(".query")).to_contain_text(f"row {near[0][1][0]},")
    page.keyboard.press("Escape")
    expect(page.locator(".query")).to_contain_text(f"row {first},")
    page.keyboard.press("Escape")
    expect(page.get_by_role("tab", name="Furthest")).to_have_attribute("aria-selected", "true")
    assert page.evaluate(focused) == str(first)

    page.keyboard.press("/")
    page.keyboard.type("dog")
    expect(page.locator("#chip")).to_contain_text("dog: 12 images")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator("#chip")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()


def test_focus_is_visible(page: Page) -> None:
    page.keyboard.press("2")
    page.keyboard.press("j")
    style = page.evaluate(
        "(({outlineStyle, outlineWidth}) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))"
    )
    assert style == ["solid", "3px"]


def test_zooming_in_shows_more_thumbnails_and_the_wheel_keeps_the_place(page: Page) -> None:
    before = settled(page)
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert settled(page) != before
    page.keyboard.press("0")
    assert settled(page) == before


def settled(page: Page) -> str:
    """Return the map, without what lies over it, when its thumbnails are there: it stays the same for a second."""
    drawn = "document.getElementById('map').toDataURL()"
    picture, same = str(page.evaluate(drawn)), 0
    while same < 4:
        page.wait_for_timeout(250)
        before, picture = picture, str(page.evaluate(drawn))
        same = same + 1 if picture == before else 0
    return picture


def held(page: Page, address: str) -> list[Route]:
    """Keep requests for an address waiting; returns them as they come, to be answered by `continue_()`."""
    waiting: list[Route] = []
    page.route(
        address, lambda route: waiting.append(route)
    )  # Playwright marks its handlers, as built-ins cannot be
    return waiting


def test_who_goes_back_before_the_answer_stays_there(page: Page, server: BrowseServer) -> None:
    waiting = held(page, "**/about/*")
    click_on_the_map(page, server, 17)
    page.wait_for_timeout(200)
    page.keyboard.press("Escape")
    with page.expect_response("**/about/*"):
        waiting[0].continue_()
    page.wait_for_timeout(200)
    expect(page.locator("#doing")).to_have_text("")
    expect(columns(page)).to_have_count(0)


def test_the_map_is_that_of_the_side_chosen_last(page: Page) -> None:
    first = settled(page)
    waiting = held(page, "**/map/1")
    page.locator("#side").select_option("1")
    page.wait_for_timeout(200)
    page.locator("#side").select_option("0")
    page.wait_for_timeout(200)
    with page.expect_response("**/map/1"):
        waiting[0].continue_()
    assert settled(page) == first
    page.unroute("**/map/1")
    page.locator("#side").select_option("1")
    assert settled(page) != first


def test_the_picture_of_ones_own_is_let_go(page: Page, server: BrowseServer, tmp_path: Path) -> None:
    page.evaluate("URL.revokeObjectURL = (url) => { window.revoked = url; }")
    own = tmp_path / "own.png"
    own.write_bytes(server.gallery.images.source.read(int(server.gallery.rows[30])))
    page.set_input_files("#file", own)
    url = page.locator(".query img").get_attribute("src")
    assert url
    assert url.startswith("blob:")
    assert page.evaluate("window.revoked") is None
    columns(page).nth(1).locator("button").first.click()
    expect(page.locator(".query")).to_contain_text("row 30,")
    assert page.evaluate("window.revoked") == url


def test_an_answer_that_fails_is_told(server: BrowseServer, browser: Browser) -> None:
    page = browser.new_page()
    page.route("**/clusters", lambda route: route.fulfill(status=500, body="this request failed"))
    page.goto(server.url)
    expect(page.locator("#doing")).to_have_text("this request failed")
    page.close()


def test_on_a_phone_nothing_overflows(server: BrowseServer, browser: Browser) -> None:
    page, said, _ = visit(browser, server, width=390)
    click_on_the_map(page, server, 17)
    expect(columns(page)).to_have_count(2)
    for name in ("Neighbours", "Clusters", "Furthest"):
        page.get_by_role("tab", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert said == []
    page.close()


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_text_and_colours_have_contrast(
    server: BrowseServer, browser: Browser, scheme: str, is_dark: bool
) -> None:
    page, said, _ = visit(browser, server, scheme=scheme)
    page.wait_for_selector("#legend i")
    ground = colour(page, "body", "backgroundColor")
    assert (luminance(ground) < 0.1) == is_dark
    for selector, what, least in [
        ("body", "color", 4.5),
        (".quiet", "color", 4.5),
        ("[role=tab]:not([aria-selected=true])", "color", 4.5),
        *((f"#legend li:nth-child({number}) i", "backgroundColor", 3.0) for number in (1, 2, 3, 4)),
    ]:
        assert contrast(colour(page, selector, what), ground) >= least, (selector, what)
    assert said == []
    page.close()


def colour(page: Page, selector: str, what: str) -> list[float]:
    text = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{what}")
    return [float(part) / 255 for part in re.findall(r"[\d.]+", text)[:3]]


def luminance(rgb: list[float]) -> float:
    """The relative luminance of WCAG 2.2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: list[float], other: list[float]) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
