"""Smaller forms of a cache: how each changes its embeddings, as a function of one chunk's rows."""

import hashlib
import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.layout import FLOAT16, INT8
from cache.reader import Split
from cache.rows import sample
from pipeline.errors import WrongUse

PCA_ROWS = 100_000
ROTATION_SEED, ROUNDS = 0, 3
FORMS = "fp16, zstd, zstd:BITS, int8, int8-rotated or pca:DIM"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What `cache convert --as` asks for. kind: fp16, zstd, int8, int8-rotated or pca; number: BITS or DIM."""

    kind: str
    number: int | None = None

    @property
    def encoding(self) -> str:
        """How a store of this form is encoded."""
        return INT8 if self.kind.startswith(INT8) else FLOAT16


def parse_form(text: str, dim: int) -> Form:
    """Return the form that a text names, for a cache of this dim. WrongUse for another text or number."""
    found = re.fullmatch(r"(fp16|int8|int8-rotated|zstd|zstd:(\d+)|pca:(\d+))", text)
    if not found:
        raise WrongUse(f"--as {text}: expected {FORMS}")
    kind, _, number = text.partition(":")
    form = Form(kind=kind, number=int(number) if number else None)
    if kind == "zstd" and form.number is not None and not 3 <= form.number <= 9:
        raise WrongUse(
            f"--as {text}: expected 3 to 9 bits of a float16's mantissa, which has 10; zstd keeps all"
        )
    if kind == "pca" and not 2 <= (form.number or 0) < dim:
        raise WrongUse(f"--as {text}: expected 2 dimensions or more, and fewer than the cache's {dim:,}")
    return form


class Rotation:
    """A random rotation (D, D), after which a row's values are about equally large, as int8 needs them.

    Each round changes signs, permutes, and rotates the first 2^n values by a Hadamard matrix, 2^n the largest power of
    two up to D. Of the values that a round leaves out, the next takes most in. Cosines do not change.
    """

    def __init__(self, dim: int) -> None:
        draws = np.random.default_rng(ROTATION_SEED)
        self.block = 1 << (dim.bit_length() - 1)
        rounds = 1 if self.block == dim else ROUNDS
        self.rounds = [
            (draws.choice(np.array([-1, 1], np.float32), dim), draws.permutation(dim)) for _ in range(rounds)
        ]

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rotate rows (n, D)."""
        for signs, order in self.rounds:
            rows = (rows * signs)[:, order]
            rows[:, : self.block] = hadamard(rows[:, : self.block])
        return rows

    def fingerprint(self) -> str:
        """Return a hash of the rotation, which another version of NumPy might draw differently."""
        return fingerprint(np.concatenate([part.astype(np.float32) for each in self.rounds for part in each]))


def hadamard(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows (n, 2^k) times the normalized Hadamard matrix of their width, by the fast transform."""
    width, whole = 1, rows.shape[1]
    values = rows
    while width < whole:
        halves = values.reshape(len(rows), -1, 2, width)
        values = np.stack([halves[:, :, 0] + halves[:, :, 1], halves[:, :, 0] - halves[:, :, 1]], axis=2)
        width *= 2
    return values.reshape(len(rows), whole) / np.float32(math.sqrt(whole))


def principal_components(split: Split, dim: int) -> NDArray[np.float32]:
    """Return the (D, dim) directions that keep most of the embeddings' similarities, the first one most.

    These are eigenvectors of the second moment: the mean is not subtracted, since cosines are between the embeddings
    themselves. From at most 100,000 random training rows.
    """
    rows = sample(split.eligible(), PCA_ROWS, np.random.default_rng(0))
    moment = np.zeros((split.shape.dim,) * 2)
    for start in range(0, len(rows), split.shape.chunk_rows):
        part = split.gather(rows[start : start + split.shape.chunk_rows]).astype(np.float32)
        moment += part.T @ part
    _, vectors = np.linalg.eigh(moment)
    return np.ascontiguousarray(vectors[:, ::-1][:, :dim], np.float32)


def fingerprint(values: NDArray[np.float32]) -> str:
    """Return a hash of what a conversion computed or drew, which another machine may do a little differently."""
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]
