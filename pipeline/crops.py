"""Random crops and flips that are pure functions of (seed, epoch, row, view).

FFCV's own random decoders draw from a thread's generator, so their pixels differ from run to run. Here every
draw comes from a counter-based generator (SplitMix64, Steele, Lea and Flood 2014): the same picture is cut the
same way whatever the number of workers, and a crop can be told again later without having been stored.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """RandomResizedCrop and horizontal flip; the defaults are torchvision's, which are the paper's.

    `scale` is the range of the crop's area as a share of the image, `ratio` that of width over height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5


@njit(nogil=True, cache=True)
def mix(value: np.uint64) -> np.uint64:
    """One output of SplitMix64 for the state `value`."""
    value = (value ^ (value >> np.uint64(30))) * MIX_1
    value = (value ^ (value >> np.uint64(27))) * MIX_2
    return value ^ (value >> np.uint64(31))


@njit(nogil=True, cache=True)
def stream(seed: int, epoch: int, row: int, view: int) -> np.uint64:
    """The state that the draws of one image in one epoch start from."""
    state = mix(np.uint64(seed) + GOLDEN)
    state = mix(state ^ (np.uint64(epoch) + GOLDEN))
    state = mix(state ^ (np.uint64(row) + GOLDEN))
    return mix(state ^ (np.uint64(view) + GOLDEN))


@njit(nogil=True, cache=True)
def uniform(state: np.uint64, draw: int) -> float:
    """Draw number `draw` of a stream: a float64 in [0, 1)."""
    bits = mix(state + np.uint64(draw + 1) * GOLDEN)
    return float(bits >> np.uint64(11)) / 9007199254740992.0


@njit(nogil=True, cache=True)
def random_crop(
    state: np.uint64, height: int, width: int, scale: np.ndarray, ratio: np.ndarray
) -> tuple[int, int, int, int]:
    """Top, left, height and width in pixels, drawn as torchvision's RandomResizedCrop draws them.

    Draw 0 of the stream is left to the flip.
    """
    area = float(height) * float(width)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(ATTEMPTS):
        draw = 1 + 4 * attempt
        target = area * (scale[0] + (scale[1] - scale[0]) * uniform(state, draw))
        aspect = math.exp(low + (high - low) * uniform(state, draw + 1))
        w = round(math.sqrt(target * aspect))
        h = round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniform(state, draw + 2) * (height - h + 1))
            left = int(uniform(state, draw + 3) * (width - w + 1))
            return top, left, h, w
    return widest_crop(height, width, ratio)


@njit(nogil=True, cache=True)
def widest_crop(height: int, width: int, ratio: np.ndarray) -> tuple[int, int, int, int]:
    """The largest centre crop whose width over height lies within `ratio` (torchvision's fallback)."""
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@njit(nogil=True, cache=True)
def centre_crop(height: int, width: int, share: float) -> tuple[int, int, int, int]:
    """The centre square whose side is `share` of the shorter side."""
    side = max(1, round(min(height, width) * share))
    return (height - side) // 2, (width - side) // 2, side, side
