"""Makers of what is not as it should be, each called in the folder of its case with that of the sound files."""

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
    """Only what is sound, or nothing at all."""


def file(name: str, content: str | bytes = "") -> Make:
    """One file, its folders included."""

    def make(good: Path) -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def folder(name: str) -> Make:
    return lambda good: Path(name).mkdir(parents=True)


def together(*makes: Make) -> Make:
    return lambda good: [make(good) for make in makes]


def png(*names: str) -> Make:
    """Sound pictures."""
    return together(*(file(name, picture("PNG")) for name in names))


def picture(form: str, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (40, 30), (200, 120, 40) if mode == "RGB" else 90).save(content, form)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and has no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def parquet(name: str, **columns: Any) -> Make:
    """One parquet file with these columns."""

    def make(good: Path) -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), name)

    return make


def images(count: int = 2, kind: pa.DataType | None = None) -> pa.Array:
    """A column image as Hugging Face writes it."""
    held = [{"bytes": b"x", "path": f"{row}.png"} for row in range(count)]
    if kind == pa.string():
        held = [{**row, "bytes": "x"} for row in held]
    return pa.array(held, pa.struct([("bytes", kind or pa.binary()), ("path", pa.string())]))


def dataset(damage: Callable[[Path], object]) -> Make:
    """The sound dataset, its .beton files as links, once `damage` has been at it."""

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
    """The sound store, once `damage` has been at it."""

    def make(good: Path) -> None:
        shutil.copytree(good / "teacher.zarr", "store.zarr")
        damage(Path("store.zarr"))

    return make


def run(damage: Callable[[Path], object]) -> Make:
    """The finished run, once `damage` has been at it."""

    def make(good: Path) -> None:
        shutil.copytree(good / "run", "run")
        damage(Path("run"))

    return make


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """A JSON file of a folder changed: in place, or into what `change` returns."""

    def damage(place: Path) -> None:
        found = json.loads((place / name).read_text())
        changed = change(found)
        (place / name).write_text(json.dumps(found if changed is None else changed))

    return damage


def holding(name: str, content: str | bytes) -> Callable[[Path], object]:
    """A file of a folder with another content."""

    def damage(place: Path) -> None:
        (place / name).unlink()
        (place / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def without(name: str) -> Callable[[Path], object]:
    """A file or folder of a folder removed."""

    def damage(place: Path) -> None:
        if (place / name).is_dir():
            shutil.rmtree(place / name)
        else:
            (place / name).unlink()

    return damage


def resized(name: str, by: int) -> Callable[[Path], object]:
    """A file of a folder longer or shorter by some bytes."""

    def damage(place: Path) -> None:
        size = (place / name).stat().st_size + by
        if (place / name).is_symlink():
            shutil.copy((place / name).resolve(), place / "copy")
            (place / "copy").replace(place / name)
        os.truncate(place / name, size)

    return damage


def overwritten(name: str, start: int, content: bytes = b"") -> Callable[[Path], object]:
    """Bytes of a file from a place on, all to its end zeroed if none are given; its size stays."""

    def damage(place: Path) -> None:
        data = bytearray((place / name).read_bytes())
        data[start : start + len(content) if content else None] = content or bytes(len(data) - start)
        (place / name).unlink()
        (place / name).write_bytes(data)

    return damage


def swapped(name: str, other: str) -> Callable[[Path], object]:
    """Two files of a folder under each other's name."""

    def damage(place: Path) -> None:
        (place / name).rename(place / "aside")
        (place / other).rename(place / name)
        (place / "aside").rename(place / other)

    return damage


def metadata(name: str, **changes: Any) -> Callable[[Path], object]:
    """Fields of what a zarr.json says under the project's attribute changed, None: removed."""

    def change(found: dict[str, Any]) -> None:
        told = found["attributes"]["anchorage"]
        for key, value in changes.items():
            told.pop(key) if value is None else told.update({key: value})

    return edited(name, change)


def saved(name: str, value: Any) -> Make:
    """What PyTorch saves of a value."""
    return lambda good: torch.save(value, name)


def truncated_weights(name: str, share: float) -> Make:
    """A weights file that was not copied to its end."""

    def make(good: Path) -> None:
        content = io.BytesIO()
        torch.save({"2.weight": torch.zeros(24, 48)}, content)
        data = content.getvalue()
        Path(name).write_bytes(data[: int(len(data) * share)])

    return make


def student(change: Callable[[bytes], bytes]) -> Make:
    """student.safetensors of the finished run with other bytes."""
    return lambda good: Path("s.safetensors").write_bytes(
        change((good / "run" / "student.safetensors").read_bytes())
    )


def safetensors(told: Any, **tensors: torch.Tensor) -> Make:
    """A safetensors file that says `told` of itself."""
    from safetensors.torch import save_file

    return lambda good: save_file(
        tensors or {"a": torch.zeros(2)}, "s.safetensors", {"anchorage": json.dumps(told)}
    )


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)
