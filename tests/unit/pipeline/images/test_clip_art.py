import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images import clip_art
from pipeline.images.clip_art import drawings_below, on_a_white_square, pixels_of, read_drawing
from pipeline.images.sources import FolderSource


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def source(folder: Path, data: bytes) -> FolderSource:
    (folder / "a.png").write_bytes(data)
    return FolderSource(data=folder, folder=".", names=["a.png"], labels=np.array([-1]), classes=())


def test_a_drawing_is_cut_out_of_its_page_and_put_on_a_white_square(tmp_path: Path) -> None:
    page = Image.new("RGBA", (1000, 700), (0, 0, 0, 0))
    page.paste((255, 0, 0, 255), (600, 100, 720, 140))
    drawing = read_drawing(source(tmp_path, png(page)), 0)
    assert drawing is not None
    pixels = np.asarray(Image.open(io.BytesIO(drawing.png)))
    expected = np.full((120, 120, 3), 255)
    expected[40:80] = (255, 0, 0)
    assert np.array_equal(pixels, expected)


def test_a_large_drawing_is_reduced_and_a_small_one_is_not() -> None:
    large = on_a_white_square(Image.new("RGB", (1200, 300), "black"))
    assert large is not None
    assert large.size == (256, 256)
    assert np.flatnonzero(np.asarray(large)[:, 128, 0] < 128).tolist() == list(range(96, 160))
    small = on_a_white_square(Image.new("RGB", (20, 10), "black"))
    assert small is not None
    assert small.size == (20, 20)


@pytest.mark.parametrize(
    "data",
    [
        png(Image.new("RGBA", (9, 9), (0, 0, 0, 0))),
        png(Image.new("L", (9, 9), 255)),
        b"",
        b"no picture",
        png(Image.new("L", (9, 9)))[:40],
    ],
    ids=["transparent", "white", "empty", "text", "cut off"],
)
def test_what_shows_nothing_is_left_out(tmp_path: Path, data: bytes) -> None:
    assert read_drawing(source(tmp_path, data), 0) is None


def test_a_giant_is_left_out_without_being_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(Image.new("L", (30, 20)))
    assert pixels_of(data) == 600
    monkeypatch.setattr(clip_art, "LARGEST", 599)
    monkeypatch.setattr(clip_art, "decode", lambda data: pytest.fail("decoded"))
    assert read_drawing(source(tmp_path, data), 0) is None


def test_the_same_drawing_always_has_the_same_bytes(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 4), np.uint8))
    once, again = (read_drawing(source(tmp_path, png(noise)), 0) for _ in range(2))
    assert once == again


def test_links_are_no_drawings(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/z.png", "a.png", "text.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link.png").symlink_to("a.png")
    assert drawings_below(tmp_path) == ["a.png", "b/z.png"]
