"""Features with a known answer: unit rows around one direction a class."""

import numpy as np

from pipeline.evaluate.features import Features


def planted(rows: int, classes: int, dim: int, noise: float, seed: int) -> Features:
    """Rows of the classes in turn; the directions are axes, which no two classes share."""
    rng = np.random.default_rng(seed)
    label = np.arange(rows, dtype=np.int64) % classes
    embedding = np.eye(classes, dim)[label] + noise * rng.standard_normal((rows, dim))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return Features(embedding.astype(np.float32), label, classes)


def shuffled(features: Features, seed: int) -> Features:
    """The same rows with their labels dealt anew."""
    label = np.random.default_rng(seed).permutation(features.label)
    return Features(features.embedding, label, features.classes)
