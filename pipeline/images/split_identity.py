"""The identity of a split: equal for equal images, labels, names and order, wherever the images are."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.images.scan import content_hashes
from pipeline.images.sources import Source


def identity_of(split: str, source: Source, hashes: NDArray[np.uint8]) -> dict[str, Any]:
    """Return a split's identity, given the sha256 of each image, (N, 32).

    `images` is the sha256 over every row's path (its length in 8 bytes, then its bytes), label (8 bytes) and content
    hash (32 bytes), in row order; integers are little-endian.
    """
    digest = hashlib.sha256()
    for name, label, content in zip(source.names, source.labels, hashes, strict=True):
        path = name.encode("utf-8", "surrogateescape")
        digest.update(len(path).to_bytes(8, "little") + path)
        digest.update(int(label).to_bytes(8, "little", signed=True) + content.tobytes())
    return {
        "split": split,
        "rows": len(source.names),
        "classes": list(source.classes),
        "images": digest.hexdigest(),
    }


def current_identity(split: str, source: Source, workers: int) -> dict[str, Any]:
    """Return the identity of the images as they are now, by reading all of them."""
    hashes = content_hashes(source, workers=workers, title=f"{split}: comparing")
    return identity_of(split, source, hashes)
