"""Read a folder of golden files with this version into plain data."""

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
    """Return everything that a later version must still read from `folder`, with None for NaN.

    The .beton files must be uncompressed.
    """
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
    """Return the columns of a split, and the mean of each channel of each image in the .beton at 24 px."""
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
    """Return the dataset and every column of a split."""
    columns = {name: plain(getattr(split, name)) for name in COLUMNS}
    rows = split.gather(np.arange(split.shape.rows))
    return {"dataset": dict(split.dataset), "embedding": plain(rows.astype(np.float64)), **columns}


def of_run(run: Path, split: DatasetSplit) -> dict[str, Any]:
    """Return a run's settings, steps and metrics, and its student's features of the readable images of a split."""
    record, backbone = read_config(run), load_run_student(run)
    decoded = [decode(split.source.read(int(row))) for row in np.flatnonzero(split.readable)]
    images = torch.stack([backbone.preprocessing.transform(image) for image in decoded])
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
    """Return an array as lists, with None for NaN."""
    if array.dtype.kind != "f":
        return array.tolist()
    return np.where(np.isnan(array), None, array.astype(object)).tolist()
