"""Exact nearest neighbours in two passes: products of half width make a short list, a proven bound keeps every true
neighbour on it, and float64 ranks it.

The mean of the rows is taken off them first: that moves all products of one query alike, and leaves shorter rows, hence
smaller errors. A row x and a query q are then rounded to bfloat16, x' and q'. By the Cauchy-Schwarz inequality
|q.x - q'.x'| <= |q - q'| |x| + |q'| |x - x'|, and the sums in float32 and the rounding of the product add what is
bounded as well. Let e be the sum of these bounds and t the k-th highest rounded product. Then k rows are at least t - e
in truth, and so the rounded product of a true neighbour is at least t - 2 e.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

ROUNDING_16 = 2.0**-8  # the largest relative error of one rounding
ROUNDING_32 = 2.0**-24
CONVERTED_ROWS = 8_192
QUERIES = 256
PRODUCTS = 2**25  # held at once: 64 MiB
GROUP = 64  # rows, one after another, of which the highest product is kept
# For fewer queries it is not worth converting the rows; and of the groups' maxima the k-th must say something.
LEAST_QUERIES = 128
LEAST_GROUPS = 8
LOWEST = np.int16(-0x8000)
MOST_GROUPS = 512  # a query, that hold a candidate: of rows more alike than that the list is not short

Neighbours = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Rounded:
    """Rows less their mean: rounded (n, D) bfloat16, the length of the longest, and how far rounding moved any."""

    rows: Tensor
    longest: float
    moved: float


def pays(rows: int, queries: int, k: int) -> bool:
    """Whether this processor multiplies bfloat16 and the search is large enough."""
    processor = torch.cpu.get_capabilities()
    fast = processor.get("avx512_bf16") or processor.get("amx_bf16")
    return bool(fast) and queries >= LEAST_QUERIES and rows >= LEAST_GROUPS * GROUP * k


def shortlisted_knn(train: NDArray[np.float32], query: NDArray[np.float32], k: int) -> Neighbours | None:
    """The k rows of train with the highest inner product with each query, of equal ones the first.

    train (n, D) and query (m, D), finite and contiguous, n at least 64 k. Returns similarity (m, k) float32,
    descending, and index (m, k) int64; or None where rows are so alike that the list is not short. Ranked in float64,
    so that rows which float32 cannot tell apart are in their true order. Takes half of train's memory once more.
    """
    rounded = _rounded(train)
    similarity, index = np.empty((len(query), k), np.float32), np.empty((len(query), k), np.int64)
    size = min(QUERIES, max(1, PRODUCTS // len(train)))
    for start in range(0, len(query), size):
        block = query[start : start + size]
        products, bound = _products(block, rounded)
        if not np.isfinite(bound).all():  # lengths that are too large for float32
            return None
        maxima = np.empty((len(block), -(-len(train) // GROUP)), np.int16)
        _group_maxima(products, maxima)
        least = _below(_value(np.partition(maxima, -k, axis=1)[:, -k]) - 2 * bound)
        if (maxima >= least[:, None]).sum() > MOST_GROUPS * len(block):
            return None
        found = similarity[start : start + size], index[start : start + size]
        _rank(products, maxima, least, train, block, *found)
    return similarity, index


def _rounded(train: NDArray[np.float32]) -> Rounded:
    """Block by block: in float32 the rows less their mean would be another copy."""
    mean = np.mean(train, axis=0, dtype=np.float64).astype(np.float32)
    rows = torch.empty(train.shape, dtype=torch.bfloat16)
    longest = moved = 0.0
    for start in range(0, len(train), CONVERTED_ROWS):
        block = torch.from_numpy(train[start : start + CONVERTED_ROWS] - mean)
        rows[start : start + CONVERTED_ROWS] = block
        longest = max(longest, block.norm(dim=1).max().item())
        moved = max(moved, (block - rows[start : start + CONVERTED_ROWS]).norm(dim=1).max().item())
    return Rounded(rows, longest, moved)


def _products(query: NDArray[np.float32], train: Rounded) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """The bits of the rounded products (m, n), and how far any of a query's is from the true one (m,)."""
    exact = torch.from_numpy(query)
    rounded = exact.bfloat16()
    moved, length = (exact - rounded).norm(dim=1).double(), exact.norm(dim=1).double()
    longest = length + moved
    sums = (query.shape[1] + 2) * ROUNDING_32
    bound = moved * train.longest + longest * train.moved
    bound += longest * (train.longest + train.moved) * (ROUNDING_16 + sums)
    # One in a hundred more: for the lengths, which are float32 themselves, and for terms of the second order.
    return (rounded @ train.rows.T).view(torch.int16).numpy(), 1.01 * bound.numpy()


def _value(key: NDArray[np.int16]) -> NDArray[np.float32]:
    """What a key, see `_key`, stands for."""
    bits = np.where(key < 0, key ^ np.int16(0x7FFF), key)
    return (bits.astype(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _below(value: NDArray[np.float64]) -> NDArray[np.int16]:
    """A key that is below a value's own."""
    bits = (value.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
    return np.where(bits < 0, bits ^ np.int16(0x7FFF), bits) - np.int16(1)


@njit(nogil=True, cache=True)
def _key(bits):  # type: ignore[no-untyped-def]
    """A bfloat16's bits as an int16 of the same order: those of a negative number count downwards."""
    return np.int16(bits ^ np.int16(np.int16(bits >> np.int16(15)) & np.int16(0x7FFF)))


@njit(nogil=True, cache=True)
def _group_maxima(products, maxima):  # type: ignore[no-untyped-def]
    """The highest key of each 64 products: (m, n) -> (m, groups)."""
    whole = products.shape[1] // GROUP
    for query in range(len(products)):
        for group in range(whole):
            highest = LOWEST
            for place in range(GROUP):  # of a length that is known to the compiler: 32 at once
                highest = max(highest, _key(products[query, group * GROUP + place]))
            maxima[query, group] = highest
        for group in range(whole, maxima.shape[1]):
            highest = LOWEST
            for place in range(whole * GROUP, products.shape[1]):
                highest = max(highest, _key(products[query, place]))
            maxima[query, group] = highest


@njit(nogil=True, cache=True)
def _rank(products, maxima, least, train, query, similarity, index):  # type: ignore[no-untyped-def]
    """The k best of each query's candidates, whose key is at least `least` (m,), into similarity and index (m, k)."""
    count, k = similarity.shape
    best = np.empty(k)
    for i in range(count):
        filled = 0
        for group in np.flatnonzero(maxima[i] >= least[i]):
            for row in range(group * GROUP, min((group + 1) * GROUP, len(train))):
                if _key(products[i, row]) < least[i]:
                    continue
                product = _inner(query[i], train[row])
                if filled == k and product <= best[k - 1]:
                    continue
                filled = min(filled + 1, k)
                place = filled - 1
                while place > 0 and best[place - 1] < product:
                    best[place], index[i, place] = best[place - 1], index[i, place - 1]
                    place -= 1
                best[place], index[i, place] = product, row
        similarity[i] = best


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _inner(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for d in range(len(a)):
        total += np.float64(a[d]) * np.float64(b[d])
    return total
