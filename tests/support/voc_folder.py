"""A small folder in PASCAL VOC's layout, with coloured rectangles on noise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.evaluate.voc.data import VocObject

COLOURS = {"bus": (230, 40, 40), "cat": (40, 230, 40), "dog": (40, 40, 230)}
SIDE = 64


def write_annotation(path: Path, things: Sequence[VocObject]) -> None:
    """Write objects as VOC's XML, which counts pixels from 1 and includes the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{''.join(map(_element, things))}</annotation>")


def _element(thing: VocObject) -> str:
    left, top, right, bottom = thing.box
    edges = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
    corners = "".join(f"<{name}>{value:g}</{name}>" for name, value in edges.items())
    return (
        f"<object><name>{thing.name}</name><difficult>{int(thing.difficult)}</difficult>"
        f"<bndbox>{corners}</bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>"
    )


def draw_voc(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write FOLDER/VOC2007 with so many images per split, each with one or two rectangles of COLOURS."""
    draws, root = np.random.default_rng(seed), folder / "VOC2007"
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for split, count in counts.items():
        names = [f"{split}-{number:04d}" for number in range(count)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            pixels = draws.integers(60, 140, (SIDE, SIDE, 3)).astype(np.uint8)
            things = [_draw(pixels, draws, half) for half in range(draws.integers(1, 3))]
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            write_annotation(root / "Annotations" / f"{name}.xml", things)
    return root


def _draw(pixels: np.ndarray, draws: np.random.Generator, half: int) -> VocObject:
    """Draw one rectangle of 16 to 30 px in the left or the right half."""
    name = str(draws.choice(list(COLOURS)))
    width, height = draws.integers(16, 31, 2)
    left = int(draws.integers(half * SIDE // 2, half * SIDE // 2 + SIDE // 2 - width + 1))
    top = int(draws.integers(0, SIDE - height + 1))
    pixels[top : top + height, left : left + width] = COLOURS[name]
    return VocObject(name=name, box=(left, top, left + int(width), top + int(height)), difficult=False)
