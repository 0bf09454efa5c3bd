"""New labels in a .beton whose images stay as they are."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.durable import whole_file
from pipeline.images.beton_format import FIELD, FIELDS, HEADER, SAMPLE


def write_labels(path: Path, labels: NDArray[np.int64]) -> None:
    """Replace the labels (N,) of a .beton atomically, by changing them in a copy. Raises StoreError."""
    start = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
    assert SAMPLE.fields is not None
    first = SAMPLE.fields["label"][1]
    with whole_file(path) as temporary:
        shutil.copyfile(path, temporary)
        with temporary.open("r+b") as file:
            file.seek(start)
            # as bytes, since a copy of records would not keep what is between their fields
            samples = np.frombuffer(file.read(len(labels) * SAMPLE.itemsize), np.uint8).copy()
            samples.reshape(len(labels), -1)[:, first : first + 8] = (
                labels.astype("<i8").view(np.uint8).reshape(-1, 8)
            )
            file.seek(start)
            file.write(samples.tobytes())
