"""Functions that make bad files in the current folder; each gets the folder of the sound files."""

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

Make = Callable[[Path], object]


def nothing(good: Path) -> None:
    """Make nothing."""


def file(name: str, content: str | bytes = "") -> Make:
    """Make one file, and its folders."""

    def make(good: Path) -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def folder(name: str) -> Make:
    return lambda good: Path(name).mkdir(parents=True)


def together(*makes: Make) -> Make:
    return lambda good: [make(good) for make in makes]


def png(*names: str) -> Make:
    """Make sound images."""
    return together(*(file(name, encoded_image("PNG")) for name in names))


def encoded_image(form: str, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (40, 30), (200, 120, 40) if mode == "RGB" else 90).save(content, form)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG with a header and no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def parquet(name: str, **columns: Any) -> Make:
    """Make a parquet file with these columns."""

    def make(good: Path) -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), name)

    return make


def images(count: int = 2, kind: pa.DataType | None = None) -> pa.Array:
    """Return a column `image` as Hugging Face writes it."""
    held = [{"bytes": b"x", "path": f"{row}.png"} for row in range(count)]
    if kind == pa.string():
        held = [{**row, "bytes": "x"} for row in held]
    return pa.array(held, pa.struct([("bytes", kind or pa.binary()), ("path", pa.string())]))


def dataset(damage: Callable[[Path], object]) -> Make:
    """Copy the sound dataset, with links to its .beton files, and damage it."""

    def make(good: Path) -> None:
        Path("dataset").mkdir()
        for held in (good / "dataset").iterdir():
            if held.suffix == ".beton":
                Path("dataset", held.name).symlink_to(held)
            else:
                shutil.copy(held, "dataset")
        damage(Path("dataset"))

    return make


def store(damage: Callable[[Path], object]) -> Make:
    """Copy the sound store and damage it."""

    def make(good: Path) -> None:
        shutil.copytree(good / "teacher.zarr", "store.zarr")
        damage(Path("store.zarr"))

    return make


def run(damage: Callable[[Path], object]) -> Make:
    """Copy the finished run and damage it."""

    def make(good: Path) -> None:
        shutil.copytree(good / "run", "run")
        damage(Path("run"))

    return make


def begun(damage: Callable[[Path], object]) -> Make:
    """Copy the run as it is before its student is written, and damage it: unlike a finished one, it has to go on."""

    def change(place: Path) -> None:
        (place / "student.safetensors").unlink()
        damage(place)

    return run(change)


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Change a JSON file in place, or replace its content by what `change` returns."""

    def damage(place: Path) -> None:
        found = json.loads((place / name).read_text())
        changed = change(found)
        (place / name).write_text(json.dumps(found if changed is None else changed))

    return damage


def holding(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Replace the content of a file."""

    def damage(place: Path) -> None:
        (place / name).unlink()
        (place / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def without(name: str) -> Callable[[Path], object]:
    """Remove a file or folder."""

    def damage(place: Path) -> None:
        if (place / name).is_dir():
            shutil.rmtree(place / name)
        else:
            (place / name).unlink()

    return damage


def resized(name: str, by: int) -> Callable[[Path], object]:
    """Make a file longer or shorter by some bytes."""

    def damage(place: Path) -> None:
        size = (place / name).stat().st_size + by
        if (place / name).is_symlink():
            shutil.copy((place / name).resolve(), place / "copy")
            (place / "copy").replace(place / name)
        os.truncate(place / name, size)

    return damage


def overwritten(name: str, start: int, content: bytes = b"") -> Callable[[Path], object]:
    """Overwrite bytes of a file from `start`; without content, zero all of them to the end. The size stays."""

    def damage(place: Path) -> None:
        data = bytearray((place / name).read_bytes())
        data[start : start + len(content) if content else None] = content or bytes(len(data) - start)
        (place / name).unlink()
        (place / name).write_bytes(data)

    return damage


def swapped(name: str, other: str) -> Callable[[Path], object]:
    """Swap two files."""

    def damage(place: Path) -> None:
        (place / name).rename(place / "aside")
        (place / other).rename(place / name)
        (place / "aside").rename(place / other)

    return damage


def metadata(name: str, **changes: Any) -> Callable[[Path], object]:
    """Change fields of the attribute `anchorage` in a zarr.json; None removes a field."""

    def change(found: dict[str, Any]) -> None:
        ours = found["attributes"]["anchorage"]
        for key, value in changes.items():
            ours.pop(key) if value is None else ours.update({key: value})

    return edited(name, change)


def saved(name: str, value: Any) -> Make:
    """Save a value with torch.save."""
    return lambda good: torch.save(value, name)


def truncated_weights(name: str, share: float) -> Make:
    """Make a weights file of which only a share was copied."""

    def make(good: Path) -> None:
        content = io.BytesIO()
        torch.save({"2.weight": torch.zeros(24, 48)}, content)
        data = content.getvalue()
        Path(name).write_bytes(data[: int(len(data) * share)])

    return make


def student(change: Callable[[bytes], bytes]) -> Make:
    """Copy the student of the finished run with its bytes changed."""
    return lambda good: Path("s.safetensors").write_bytes(
        change((good / "run" / "student.safetensors").read_bytes())
    )


def safetensors(description: Any, **tensors: torch.Tensor) -> Make:
    """Make a safetensors file with this description in its metadata."""
    from safetensors.torch import save_file

    return lambda good: save_file(
        tensors or {"a": torch.zeros(2)}, "s.safetensors", {"anchorage": json.dumps(description)}
    )


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)
