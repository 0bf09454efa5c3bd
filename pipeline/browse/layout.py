"""Two-dimensional maps of embeddings: by PCA at once, and by t-SNE of landmarks when there is time."""

import hashlib
import io
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from cache.durable import write_file
from cache.errors import StoreError
from cache.user_folder import user_folder
from pipeline.neighbours import knn
from pipeline.report.embedding_map import placed

LANDMARKS = 5_000  # t-SNE takes a minute for these, and time grows a little faster than their number
NEAREST_LANDMARKS = 5
SHARPNESS = 0.02  # temperature of the cosines that weight an image's landmarks
VERSION = 1  # of the maps that are kept

Points = NDArray[np.float32]
Embedding = NDArray[np.float32]


def quick_map(embedding: Embedding, seed: int) -> Points:
    """Return embeddings (n, D) on the two principal components of a sample, as points (n, 2) within -1 to 1."""
    sample = np.random.default_rng(seed).permutation(len(embedding))[:LANDMARKS]
    components = PCA(2, svd_solver="randomized", random_state=seed).fit(embedding[np.sort(sample)])
    return scaled(components.transform(embedding))


def kept_map(embedding: Embedding, seed: int, key: str) -> Points:
    """Return `full_map`, computed once and then kept in the user's cache folder; key: what the embeddings are."""
    name = hashlib.sha256(f"{key} {seed} {LANDMARKS} {VERSION}".encode()).hexdigest()
    file = user_folder("maps") / f"{name}.npy"
    with suppress(OSError, ValueError, EOFError):
        kept: Points = np.load(file)
        if kept.shape == (len(embedding), 2):
            return kept
    points = full_map(embedding, seed)
    content = io.BytesIO()
    np.save(content, points)
    with suppress(StoreError, OSError):  # a map that is not kept is computed again, which is no error
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, content.getvalue())
    return points


def full_map(embedding: Embedding, seed: int) -> Points:
    """Return a map of embeddings (n, D) by PCA, then t-SNE (van der Maaten and Hinton 2008): points (n, 2).

    Above 5,000 images, t-SNE places a random 5,000, the landmarks; any other image lies at the mean of the five
    landmarks nearest to it, weighted by their cosines.
    """
    count = len(embedding)
    landmarks = np.sort(np.random.default_rng(seed).permutation(count)[:LANDMARKS])
    chosen = embedding[landmarks]
    of_landmarks = placed(chosen, seed)
    points = np.empty((count, 2), np.float32)
    points[landmarks] = of_landmarks
    others = np.setdiff1d(np.arange(count), landmarks, assume_unique=True)
    if len(others):
        score, near = knn(chosen, embedding[others], min(NEAREST_LANDMARKS, len(chosen)))
        weight = np.exp((score - score[:, :1]) / SHARPNESS)
        weight /= weight.sum(1, keepdims=True)
        points[others] = (of_landmarks[near] * weight[..., None]).sum(1)
    return scaled(points)


def scaled(points: NDArray[np.floating]) -> Points:
    """Return points (n, 2) centred and scaled alike in both directions, so that they lie within -1 to 1."""
    low, high = points.min(0), points.max(0)
    extent = max(float((high - low).max()), 1e-9)
    return np.ascontiguousarray((points - (low + high) / 2) / (extent / 2), np.float32)
