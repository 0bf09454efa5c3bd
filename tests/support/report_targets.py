"""Run folders and caches with planted embeddings, as `distill` and `eval` write them, without training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cache.layout import ChunkKey
from cache.reader import open_store
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
from pipeline.images.dataset import Dataset
from pipeline.images.pack import pack
from pipeline.settings.commands import PackConfig

EVIL = ('<b>"bold"</b>', "it's\nnew", "<img src=x onerror=alert(1)>", "$x_1$ & {{ 7 * 7 }}")
PLAIN = ("bird", "cat", "dog", "ship")
DIM = 16


def image_folder(root: Path, classes: tuple[str, ...], train: int, val: int) -> Path:
    """Write class folders of noisy squares, one colour per class, with file names that contain markup."""
    draws = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind, name in enumerate(classes):
            # file names can contain everything but a slash
            folder = root / split / name.replace("/", "\N{DIVISION SLASH}")
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 60, (24, 32, 3))
                pixels[..., kind % 3] += 60 + 30 * kind
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"'{number}\"><script>alert(1)<\n.png")
    return root


def dataset_of(root: Path, classes: tuple[str, ...] = PLAIN, train: int = 30, val: int = 12) -> Dataset:
    """Pack a dataset of such images."""
    data = image_folder(root / "images", classes, train, val)
    return pack(PackConfig(data=data, out=root / "dataset", workers=1))


def write_store(
    path: Path, dataset: Dataset, *, noise: float = 0.05, seed: int = 0, maker: str = "planted", **origin: str
) -> Path:
    """Write a store of embeddings around one axis per class; all rows are eligible."""
    create_store(path, {"architecture": maker, "dim": DIM, "seed": seed}, origin)
    draws = np.random.default_rng(seed)
    for name, split in dataset.splits.items():
        features = np.eye(4, DIM)[split.labels] + noise * draws.standard_normal((split.rows, DIM))
        embedding, norm, status = normalize(features.astype(np.float32))
        shape = {"rows": split.rows, "views": 1, "dim": DIM}
        create_split(path, name, dataset=split.identity, labels=split.labels, thumbs=split.thumbs, **shape)
        crop = np.tile(np.float32([0, 0, 1, 1, 0]), (split.rows, 1))
        write_chunk(
            path, name, ChunkKey(0, 0), ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status)
        )
    return path


def write_run(
    run: Path, dataset: Dataset, cache: Path, *, nn1: float | None = 0.5, store: bool = True, **settings: Any
) -> Path:
    """Write the folder of a distillation: config, log, and optionally embeddings and metrics."""
    config = {"student": "resnet18", "objective": "1q", "epochs": 2, "batch_size": 10, "tau": 0.04}
    config |= {"anchors": "64", "seed": 0, "subset": 1.0, "cache": str(cache), "run": str(run), **settings}
    teacher = open_store(cache)
    made_of = {
        "dataset": dataset.splits["train"].identity,
        "cache": teacher.id,
        "teacher": dict(teacher.origin),
    }
    run.mkdir(parents=True)
    record = {
        "format": 1,
        "command": "distill",
        "config": config,
        "made_of": made_of,
        "provenance": {"commit": "c0ffee"},
    }
    (run / "config.json").write_text(json.dumps(record))
    lines = [{"step": step, "loss": 3 / step, "lr": 0.1} for step in range(1, 25)]
    lines += [{"step": 12, "nn1": 0.3, "nn20": 0.3}, {"step": 24, "nn1": 0.5, "nn20": 0.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if store:
        write_store(run / "embeddings.zarr", dataset, noise=0.2, seed=1 + config["seed"], maker="resnet18")
    if nn1 is not None:
        name = f"{config['student']} {config['objective']}"
        write_metrics(run / "metrics.json", name, {"nn1": nn1, "linear": nn1}, seed=config["seed"])
    return run


def write_metrics(
    path: Path, name: str, metrics: Mapping[str, float], *, seed: int | None, role: str = "student"
) -> Path:
    """Write metrics.json as `eval` does."""
    provenance = {"seed": seed, "dataset": "d", "store": f"s{seed}", "command": "python cli.py eval <RUN>"}
    content = {"format": 1, "name": name, "role": role, "metrics": metrics, "provenance": provenance}
    path.write_text(json.dumps(content))
    return path
