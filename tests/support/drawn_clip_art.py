"""Drawings of our own in the folders of the demo's package, and that package as a file."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.images import clip_art
from pipeline.images.debian_package import DebianPackage

SHAPES = {
    "people/smilies": ("ellipse", "yellow"),
    "tools": ("rectangle", "red"),
    "plants": ("polygon", "green"),
}


def draw(shape: str, color: str, rng: np.random.Generator) -> Image.Image:
    """A shape of random size somewhere on a transparent page, another somewhere in it."""
    page = Image.new("RGBA", (96, 120), (0, 0, 0, 0))
    left, top = rng.integers(0, 30, 2).tolist()
    right, bottom = rng.integers(50, 90, 2).tolist()
    pen = ImageDraw.Draw(page)
    points = [(left, bottom), (right, bottom), ((left + right) // 2, top)]
    getattr(pen, shape)(
        points if shape == "polygon" else [left, top, right, bottom], fill=color, outline="black"
    )
    x, y = rng.integers(32, 46, 2).tolist()
    pen.ellipse([x, y, x + 5, y + 5], fill="blue")
    return page


def write_drawings(folder: Path, each: int) -> Path:
    """`each` drawings in three of the package's folders; returns the folder."""
    rng = np.random.default_rng(0)
    for below, (shape, color) in SHAPES.items():
        (folder / below).mkdir(parents=True)
        for number in range(each):
            name = "".join(chr(ord("a") + int(digit)) for digit in str(number))
            draw(shape, color, rng).save(folder / below / f"{name}.png")
    return folder


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have `folder` taken for the installed package's."""
    package = DebianPackage(
        name="drawings", url="https://no.example/drawings.deb", sha256="", root=str(folder)[1:]
    )
    monkeypatch.setattr(clip_art, "PACKAGE", package)


def write_deb(path: Path, root: str, folder: Path) -> str:
    """A package of a folder's files below /root, as `dpkg-deb` writes one; returns its sha256."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        archive.add(folder, f"./{root}")
        link = tarfile.TarInfo(f"./{root}/plants/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("./usr/share/doc/drawings/copyright"))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    packed = b"!<arch>\n"
    for name, content in members.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        packed += b"\n" * (len(content) % 2)
    path.write_bytes(packed)
    return hashlib.sha256(packed).hexdigest()
