"""How closely a student follows its teacher on images that it was not trained on. No labels are needed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from cache.reader import Split, Store
from cache.rows import sample, spread
from pipeline.errors import PipelineError
from pipeline.evaluate.features import BLOCK_ROWS, unit_rows
from pipeline.runtime.device import CPU

NEIGHBOURS = 10
TAU = 0.04
QUERIES_AT_ONCE = 4096
MOST_IMAGES, MOST_NEIGHBOURS, MOST_ANCHORS = 5_000, 50_000, 2_048

Rows = NDArray[np.int64]
Embedding = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """A student's fidelity on each of m validation images: `rows` (m,), `recall` (m,) and `divergence` (m,)."""

    rows: Rows
    recall: NDArray[np.float64]
    divergence: NDArray[np.float64]


def of_stores(student: Store, teacher: Store, seed: int, device: torch.device = CPU) -> Fidelity:
    """Compare a student's store with its teacher's, on random images that both have embeddings of.

    At most 5,000 validation images, with at most 50,000 training images as neighbours and 2,048 of them as anchors.
    Raises PipelineError if there is none.
    """
    draws = np.random.default_rng(seed)
    sides = [(store.split("train"), store.split("val")) for store in (student, teacher)]
    of_train, of_val = zip(*sides, strict=True)
    train, val = common_rows(of_train, MOST_NEIGHBOURS, draws), common_rows(of_val, MOST_IMAGES, draws)
    if not (len(train) and len(val)):
        raise PipelineError(f"{student.path} and {teacher.path} have no image in common, in train or in val")
    anchors = spread(train, MOST_ANCHORS)
    found, embeddings = [], []
    for train_split, val_split in sides:
        query = unit_rows(val_split, val)
        found.append(nearest(partial(unit_rows, train_split), train, query, NEIGHBOURS, device)[1])
        embeddings += [query, unit_rows(train_split, anchors)]
    return Fidelity(rows=val, recall=recall(*found), divergence=divergence(*embeddings))


def common_rows(splits: Sequence[Split], most: int, draws: np.random.Generator) -> Rows:
    """Return the rows with an embedding in every split, ascending; at random, if there are more than so many."""
    rows = splits[0].eligible()
    for split in splits[1:]:
        rows = np.intersect1d(rows, split.eligible(), assume_unique=True)
    return sample(rows, most, draws)


def recall(student: Rows, teacher: Rows) -> NDArray[np.float64]:
    """Return, for each image, the share of the teacher's nearest images (m, k) that are among the student's: (m,)."""
    return (teacher[:, :, None] == student[:, None, :]).any(2).mean(1)


def divergence(
    student: Embedding, student_anchors: Embedding, teacher: Embedding, teacher_anchors: Embedding
) -> NDArray[np.float64]:
    """Return KL(p(teacher) || p(student)) of each image, with p = softmax(cosine / 0.04) over the anchors: (m,).

    Unit rows: student (m, Ds), teacher (m, Dt), and of the same K images student_anchors (K, Ds) and teacher_anchors
    (K, Dt). It is the loss of CompRess (arXiv 2010.14713) with both sides in their own space, as in 2q, whatever the
    student was trained with: without the head, which is dropped after training.
    """
    found = []
    for start in range(0, len(student), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        log_s, log_t = (
            (torch.from_numpy(query[part] @ anchors.T) / TAU).log_softmax(1)
            for query, anchors in ((student, student_anchors), (teacher, teacher_anchors))
        )
        found.append((log_t.exp() * (log_t - log_s)).sum(1, dtype=torch.float64).numpy())
    return np.concatenate([np.empty(0), *found])


def nearest(
    read: Callable[[Rows], Embedding], rows: Rows, query: Embedding, k: int, device: torch.device = CPU
) -> tuple[Embedding, Rows]:
    """Return the k of `rows` that are nearest to each query (m, D) by cosine: similarities and rows (m, k).

    The nearest comes first, of equally near ones the lowest row; with fewer than k rows, all are returned. read: a
    function from rows (n,) to unit embeddings (n, D), called block by block so that not all need fit in memory.
    """
    from pipeline.neighbours import knn  # here, so that training without --eval-every needs no faiss

    score, row = np.empty((len(query), 0), np.float32), np.empty((len(query), 0), np.int64)
    for start in range(0, len(rows), BLOCK_ROWS) if len(query) else ():
        block = rows[start : start + BLOCK_ROWS]
        near, index = knn(read(block), query, min(k, len(block)), device)
        score, row = most_similar([(score, row), (near, block[index])], k)
    return score, row


def most_similar(found: list[tuple[Embedding, Rows]], k: int) -> tuple[Embedding, Rows]:
    """Return the k most similar of several finds (m, k_i), which are of ascending parts of all rows."""
    score, row = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    order = np.argsort(-score, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(score, order, axis=1), np.take_along_axis(row, order, axis=1)


def means(recalls: NDArray[np.float64], divergences: NDArray[np.float64]) -> Iterator[tuple[str, float]]:
    """Yield ("recall10", mean) and ("divergence", mean); nothing for no images."""
    if len(recalls):
        yield "recall10", float(recalls.mean())
        yield "divergence", float(divergences.mean())
