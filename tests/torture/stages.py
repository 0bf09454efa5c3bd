"""The three stages: the command of each, what may be open after a fault, and which files are compared."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.torture.children import command, command_on_cluster

IMAGES = {"train": 24, "val": 8}
CLASSES, PIXELS = 2, 24
STUDENT = (
    "--student tests.support.tiny_student:build --image-size 24 --epochs 4 --batch-size 8 "
    "--save-every 4 --device cpu"
)
TEACHER = "--teacher tests.support.tiny_teacher:with_mapping --batch-size 8 --device cpu"
NOT_COMPARED = (".lock", "tensorboard")  # the last writer, and files full of times


@dataclass(frozen=True, kw_only=True)
class Materials:
    """The folders that the stages read: images, and the uninterrupted result of each stage."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def trial(self) -> Path:
        """The folder that every stage writes to, since a run keeps the name of its folder."""
        return self.folder / "trial"

    @property
    def log(self) -> Path:
        """The output of the last command."""
        return self.folder / "trial.log"

    def whole(self, stage: str) -> Path:
        """The folder with the uninterrupted result of a stage."""
        return self.folder / f"whole-{stage}"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of the product.

    result: the name of its output in a trial's folder. arguments: its command line for such a folder. opened: the
    files, by name, that open as if they were whole; it raises what a user would see.
    """

    name: str
    result: str
    arguments: Callable[[Materials, Path], list[str]]
    opened: Callable[[Path], dict[str, bytes]]

    def work(self, materials: Materials, folder: Path) -> Callable[[], int]:
        """Return the command as work for a child."""
        with_cluster = self.name == "cache-teacher"
        return (command_on_cluster if with_cluster else command)(self.arguments(materials, folder))


def make_images(folder: Path) -> None:
    """Write PNG images of noise in two classes."""
    draws = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for number in range(count):
            path = folder / split / f"class-{number % CLASSES}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draws.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)


def pack_arguments(materials: Materials, folder: Path) -> list[str]:
    return ["pack", str(materials.images), str(folder / "dataset"), "--workers", "1"]


def cache_arguments(materials: Materials, folder: Path) -> list[str]:
    dataset = materials.whole("pack") / "dataset"
    return ["cache-teacher", str(dataset), str(folder / "cache.zarr"), *TEACHER.split()]


def distill_arguments(materials: Materials, folder: Path) -> list[str]:
    dataset, cache = materials.whole("pack") / "dataset", materials.whole("cache-teacher") / "cache.zarr"
    return ["distill", str(dataset), str(cache), str(folder / "run"), *STUDENT.split()]


def opened_dataset(path: Path) -> dict[str, bytes]:
    """Return every file if the folder opens as a dataset, else none."""
    from pipeline.errors import WrongUse
    from pipeline.images.dataset import open_dataset

    try:
        open_dataset(path)
    except WrongUse:
        return {}
    return contents(path)


def opened_store(path: Path) -> dict[str, bytes]:
    """Return the files of every written chunk, and the metadata, labels and hashes of every split that opens."""
    from cache.columns import chunk_columns
    from cache.errors import NotAStore
    from cache.metadata import split_names
    from cache.reader import open_store

    try:
        store = open_store(path)
    except NotAStore:
        return {}
    files = {"zarr.json": (path / "zarr.json").read_bytes()}
    for name in split_names(path):
        split = store.split(name)
        written = [key for key in split.shape.chunk_keys if key not in split.absent]
        chunks = {f"{name}/{each.file_name(key)}" for each in chunk_columns(split.shape) for key in written}
        fixed = {
            file
            for file in contents(path)
            if file.startswith(f"{name}/") and re.search(r"/(label|thumb)/c/\d+$|\.json$", file)
        }
        files |= {file: (path / file).read_bytes() for file in chunks | fixed}
    return files


def opened_run(path: Path) -> dict[str, bytes]:
    """Return config.json if it exists; load the student and the checkpoint, which may be of any step."""
    from pipeline.models.checkpoints import load_resume, load_safetensors
    from pipeline.results.run_record import read_config

    if (path / "config.json").exists():
        read_config(path)
    if (path / "student.safetensors").exists():
        load_safetensors(path / "student.safetensors")
    if (path / "resume.pt").exists():
        load_resume(path / "resume.pt")
    files = contents(path)
    return {name: files[name] for name in ("config.json",) if name in files}


def contents(folder: Path) -> dict[str, bytes]:
    """Return every compared file below a folder, by relative name, without times."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part in path.parts for part in NOT_COMPARED):
            files[name] = timeless(path.name, path.read_bytes())
    return files


def timeless(name: str, data: bytes) -> bytes:
    """Drop the provenance and the speed of a run."""
    without = {"config.json": "provenance", "metrics.jsonl": "images_per_s"}
    if name not in without:
        return data
    try:
        values = [json.loads(part) for part in (data.splitlines() if name == "metrics.jsonl" else [data])]
    except ValueError:  # half a line
        return data
    return json.dumps([{**value, without[name]: None} for value in values]).encode()


STAGES = (
    Stage(name="pack", result="dataset", arguments=pack_arguments, opened=opened_dataset),
    Stage(name="cache-teacher", result="cache.zarr", arguments=cache_arguments, opened=opened_store),
    Stage(name="distill", result="run", arguments=distill_arguments, opened=opened_run),
)
