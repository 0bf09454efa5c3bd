"""What is in a folder of golden files, read by this version and told as plain data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.reader import Split, open_store
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.images.decode import decode
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.models.checkpoints import load_resume
from pipeline.models.student_file import load_run_student
from pipeline.results.records import load_metrics
from pipeline.results.run_record import read_config

COLUMNS = ("status", "norm", "crop", "label", "thumb")


def values(folder: Path) -> dict[str, Any]:
    """Everything that a later version must still find in `folder`, whose .beton files are whole; None for NaN."""
    dataset = open_dataset(folder / "dataset", data=folder / "pictures")
    store = open_store(folder / "teacher.zarr")
    return {
        "dataset": {name: of_dataset(split) for name, split in dataset.splits.items()},
        "store": {
            "id": store.id,
            "teacher": dict(store.teacher),
            "origin": dict(store.origin),
            "splits": {name: of_store(store.split(name)) for name in store.splits},
        },
        "run": of_run(folder / "run", dataset.splits["val"]),
    }


def of_dataset(split: DatasetSplit) -> dict[str, Any]:
    """The columns of a split, and of each picture in the .beton its mean in each channel at 24 px."""
    order = Order(rows=np.arange(split.rows), batch=split.rows, shuffle=False, drop_last=False)
    (batch,) = ImageLoader(split.beton, order, image_size=24).epoch(0)
    return {
        "identity": split.identity,
        "names": list(split.names),
        "labels": split.labels.tolist(),
        "readable": split.readable.tolist(),
        "thumbs": split.thumbs.tolist(),
        "rows": batch.rows.tolist(),
        "pixels": batch.images[0].mean(dim=(2, 3)).tolist(),
    }


def of_store(split: Split) -> dict[str, Any]:
    """The dataset and every column of a split."""
    columns = {name: plain(getattr(split, name)) for name in COLUMNS}
    rows = split.gather(np.arange(split.shape.rows))
    return {"dataset": dict(split.dataset), "embedding": plain(rows.astype(np.float64)), **columns}


def of_run(run: Path, split: DatasetSplit) -> dict[str, Any]:
    """A run's settings, steps, metrics, and its student's features of the readable pictures of a split."""
    record, backbone = read_config(run), load_run_student(run)
    pictures = [decode(split.source.read(int(row))) for row in np.flatnonzero(split.readable)]
    images = torch.stack([backbone.preprocessing.transform(picture) for picture in pictures])
    return {
        "config": record["config"],
        "made_of": record["made_of"],
        "step": load_resume(run / "resume.pt")["step"],
        "losses": [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()],
        "metrics": dict(load_metrics(run / "metrics.json").metrics),
        "weights": backbone.weights_sha256,
        "features": backbone.module(images).tolist(),
    }


def plain(array: np.ndarray) -> Any:
    """An array as lists."""
    if array.dtype.kind != "f":
        return array.tolist()
    return np.where(np.isnan(array), None, array.astype(object)).tolist()
