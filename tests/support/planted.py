"""Features of known classes: unit rows around one direction per class."""

import numpy as np

from pipeline.evaluate.features import LabeledFeatures


def planted(rows: int, classes: int, dim: int, noise: float, seed: int) -> LabeledFeatures:
    """Return rows of all classes in turn; each class's direction is an axis of its own."""
    rng = np.random.default_rng(seed)
    label = np.arange(rows, dtype=np.int64) % classes
    embedding = np.eye(classes, dim)[label] + noise * rng.standard_normal((rows, dim))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return LabeledFeatures(embedding.astype(np.float32), label, classes)


def shuffled(features: LabeledFeatures, seed: int) -> LabeledFeatures:
    """Return the same rows with permuted labels."""
    label = np.random.default_rng(seed).permutation(features.label)
    return LabeledFeatures(features.embedding, label, features.classes)
