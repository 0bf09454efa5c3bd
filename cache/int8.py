"""Embeddings as int8: a code for each value and one scale for each row, in half the bytes of float16.

A row's largest value gets the code 127 or -127, and the scale brings the codes back to unit length: the embedding is
codes * scale, so that only its direction is rounded.
"""

import numpy as np
from numpy.typing import NDArray

LARGEST = 127


def quantized(embedding: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return codes (n, D) int8 and scales (n,) float32 of unit rows (n, D).

    A row that is not finite has the scale NaN, so that it is NaN again when it is read.
    """
    rows = embedding.astype(np.float32)
    usable = np.asarray(np.isfinite(rows).all(axis=1))
    peak = np.abs(rows).max(1, where=usable[:, None], initial=np.finfo(np.float32).tiny)
    codes = np.zeros(rows.shape, np.int8)
    codes[usable] = np.rint(rows[usable] * (LARGEST / peak[usable, None]))
    scale = np.full(len(rows), np.nan, np.float32)
    scale[usable] = 1 / np.linalg.norm(codes[usable].astype(np.float64), axis=1)
    return codes, scale


def widened(codes: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return embeddings (n, D) float16 of codes (n, D) and scales (n,)."""
    return (codes.astype(np.float32) * scale[:, None]).astype(np.float16)
