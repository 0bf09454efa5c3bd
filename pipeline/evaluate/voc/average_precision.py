"""Average precision as defined by PASCAL VOC, for classification and detection.

Everingham, Van Gool, Williams, Winn, Zisserman, IJCV 2010: eleven points (VOC 2007, section 4.2) and the area
under the interpolated curve (VOC 2010 and later).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
SAME_OBJECT = 0.5


class AveragePrecision(NamedTuple):
    """One class's average precision as a fraction: the mean precision at eleven recalls, and the area."""

    eleven_point: float
    area: float


@dataclass(frozen=True, kw_only=True)
class Truth:
    """One class's objects on one image: box (m, 4) px as left, top, right, bottom; difficult (m,)."""

    box: NDArray[np.float64]
    difficult: NDArray[np.bool_]


def average_precision(score: NDArray, verdict: NDArray, positives: int) -> AveragePrecision:
    """Compute the average precision of predictions with these scores (n,), ranked from the highest.

    verdict (n,): POSITIVE, NEGATIVE, or IGNORED for predictions that do not count. positives: the number of true
    positives to find, at least 1. Predictions with equal scores are ranked together, so row order does not matter.
    """
    counted = verdict != IGNORED
    order = np.argsort(-score[counted], kind="stable")
    ranked, hit = score[counted][order], verdict[counted][order] == POSITIVE
    # thresholds lie only where the score drops
    last = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True)[: len(ranked)])
    found = np.cumsum(hit)[last]
    precision = found / (last + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this or a higher recall
    # in integers, so that 3 of 10 reaches recall 0.3
    at_eleven = [best[10 * found >= point * positives][:1].sum() for point in range(11)]
    area = np.sum(np.diff(found, prepend=0) * best) / positives
    return AveragePrecision(eleven_point=float(np.mean(at_eleven)), area=float(area))


def mean(values: Sequence[AveragePrecision]) -> AveragePrecision:
    """Return the mean over classes, mAP."""
    eleven_point, area = np.mean(values, axis=0).tolist()
    return AveragePrecision(eleven_point, area)


def match(
    box: NDArray, score: NDArray, image: NDArray[np.int64], truth: Sequence[Truth]
) -> NDArray[np.int64]:
    """Return the verdict (n,) on the detections of one class: box (n, 4) px, score (n,), image (n,) indexing truth.

    From the highest score down, each detection is matched to the object that it overlaps most. With an intersection
    over union of 0.5 or more, it is POSITIVE, NEGATIVE if that object is already found, or IGNORED if it is difficult.
    """
    verdict = np.full(len(score), NEGATIVE, np.int64)
    taken = [np.zeros(len(one.difficult), np.bool_) for one in truth]
    for place in np.argsort(-score, kind="stable"):
        objects, used = truth[image[place]], taken[image[place]]
        overlap = overlaps(box[place], objects.box)
        if not overlap.size or overlap.max() < SAME_OBJECT:
            continue
        nearest = overlap.argmax()
        if objects.difficult[nearest]:
            verdict[place] = IGNORED
        elif not used[nearest]:
            verdict[place], used[nearest] = POSITIVE, True
    return verdict


def overlaps(box: NDArray, others: NDArray) -> NDArray[np.float64]:
    """Return the intersection over union of a box (4,) with others (m, 4): (m,)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    return shared / (np.prod(box[2:] - box[:2]) + areas - shared)
