"""Random crops and flips as pure functions of (seed, epoch, row, view), and the compiled loops that apply them.

FFCV's own random decoders draw from a generator per thread, so their pixels differ from run to run. Here every draw
comes from a counter-based generator (SplitMix64; Steele, Lea and Flood 2014): crops do not depend on the number of
workers, and can be recomputed later without having been stored.

All compiled functions are in this one file, because numba reuses compiled code from disk as long as the function's own
file is unchanged: it would miss a change in a function that is imported from another file.
"""

import math
from dataclasses import dataclass

import numpy as np
from llvmlite import binding
from numba import njit, prange, types

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
ATTEMPTS = 10
# FFCV's sample numbers hold the epoch above this bit and the row below it, so that a decoder knows both.
EPOCH_BIT = 40
ROW_MASK = (1 << EPOCH_BIT) - 1
JPG = 0  # FFCV's mode of an image stored as JPEG
CENTER, RANDOM, STORED = range(3)  # kinds of crop
# FFCV's C functions are called by name, so that the compiled code can be cached on disk; `link` sets their addresses.
RESIZE, DECODE_JPEG = "anchorage_ffcv_resize", "anchorage_ffcv_imdecode"
_resize = types.ExternalFunction(RESIZE, types.int32(*[types.int64] * 11))
_decode_jpeg = types.ExternalFunction(
    DECODE_JPEG,
    types.int32(types.uintp, types.uint64, types.uint32, types.uint32, types.uintp, *[types.uint32] * 8),
)


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """RandomResizedCrop and random horizontal flip; the defaults are torchvision's and the paper's.

    scale: range of the crop's area as a share of the image. ratio: range of width / height. flip: its probability.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5


@njit(nogil=True, cache=True)
def mix(value: np.uint64) -> np.uint64:
    """Return the output of SplitMix64 for the state `value`."""
    value = (value ^ (value >> np.uint64(30))) * MIX_1
    value = (value ^ (value >> np.uint64(27))) * MIX_2
    return value ^ (value >> np.uint64(31))


@njit(nogil=True, cache=True)
def stream(seed: int, epoch: int, row: int, view: int) -> np.uint64:
    """Return the initial state of the random stream of one view of an image in one epoch."""
    state = mix(np.uint64(seed) + GOLDEN)
    state = mix(state ^ (np.uint64(epoch) + GOLDEN))
    state = mix(state ^ (np.uint64(row) + GOLDEN))
    return mix(state ^ (np.uint64(view) + GOLDEN))


@njit(nogil=True, cache=True)
def uniform(state: np.uint64, draw: int) -> float:
    """Return draw number `draw` of a stream: a float64 in [0, 1)."""
    bits = mix(state + np.uint64(draw + 1) * GOLDEN)
    return float(bits >> np.uint64(11)) / 9007199254740992.0


@njit(nogil=True, cache=True)
def random_crop(
    state: np.uint64, height: int, width: int, scale: np.ndarray, ratio: np.ndarray
) -> tuple[int, int, int, int]:
    """Return top, left, height and width in pixels, drawn as in torchvision's RandomResizedCrop.

    Draw 0 of the stream is reserved for the flip.
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
def random_view(
    seed: int,
    epoch: int,
    row: int,
    view: int,
    height: int,
    width: int,
    scale: np.ndarray,
    ratio: np.ndarray,
    flip: float,
) -> tuple[int, int, int, int, bool]:
    """Return one view of an image in one epoch: top, left, height and width in pixels, and whether it is flipped."""
    state = stream(seed, epoch, row, view)
    top, left, h, w = random_crop(state, height, width, scale, ratio)
    return top, left, h, w, uniform(state, 0) < flip


def first_view(
    plan: RandomCrop, seed: int, epoch: int, row: int, height: int, width: int
) -> tuple[int, int, int, int, bool]:
    """Return what `random_view` does for view 0, for callers in Python: plain numbers."""
    scale, ratio = np.array(plan.scale), np.array(plan.ratio)
    view: tuple[int, int, int, int, bool] = random_view(
        seed, epoch, row, 0, height, width, scale, ratio, plan.flip
    )
    return view


@njit(nogil=True, cache=True)
def stored_view(crop: np.ndarray, height: int, width: int) -> tuple[int, int, int, int, bool]:
    """Return a view as `random_view` does, from its crop (5,) in a store: fractions of the image, and 1 if flipped.

    The crop may be of the original, and the image a smaller copy: edges are rounded to whole pixels.
    """
    top, left = round(crop[0] * height), round(crop[1] * width)
    bottom, right = round((crop[0] + crop[2]) * height), round((crop[1] + crop[3]) * width)
    top, left = min(top, height - 1), min(left, width - 1)
    return top, left, max(1, bottom - top), max(1, right - left), crop[4] == 1


@njit(nogil=True, cache=True)
def widest_crop(height: int, width: int, ratio: np.ndarray) -> tuple[int, int, int, int]:
    """Return the largest centre crop with width / height within `ratio` (torchvision's fallback)."""
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@njit(nogil=True, cache=True)
def center_crop(height: int, width: int, share: float) -> tuple[int, int, int, int]:
    """Return the center square whose side is `share` of the shorter side."""
    side = max(1, round(min(height, width) * share))
    return (height - side) // 2, (width - side) // 2, side, side


def link(*, resize: int, decode_jpeg: int) -> None:
    """Set the addresses of FFCV's `resize` and `imdecode` in this process; call it before the functions below."""
    binding.add_symbol(RESIZE, resize)
    binding.add_symbol(DECODE_JPEG, decode_jpeg)


@njit(nogil=True, cache=True)
def stored_pixels(field, size, content, scratch):  # type: ignore[no-untyped-def]
    """Return the pixels (H, W, 3) uint8 of an image, decoded into scratch (bytes,) if it is a JPEG.

    field: FFCV's record of the image. size: in bytes. content: the bytes of the .beton.
    """
    start = np.int64(field["data_ptr"])
    data = content[start : start + np.int64(size)]
    height, width = np.int64(field["height"]), np.int64(field["width"])
    if field["mode"] != JPG:
        return data.reshape(height, width, 3)
    pixels = scratch[: 3 * height * width].reshape(height, width, 3)
    _decode_jpeg(
        data.ctypes.data, data.size, height, width, pixels.ctypes.data, height, width, 0, 0, 1, 1, 0, 0
    )
    return pixels


@njit(nogil=True, cache=True)
def cut(pixels, moment, crop, stored, out):  # type: ignore[no-untyped-def]
    """Crop pixels (H, W, 3), resize them into out (size, size, 3), and flip them.

    moment: seed, epoch, row and view. crop: its kind, then a RandomCrop's scale and ratio as arrays, and flip.
    stored: the crop (5,) of a store, for the kind STORED.
    """
    kind, scale, ratio, flip = crop
    height, width = pixels.shape[:2]
    is_flipped = False
    if kind == RANDOM:
        seed, epoch, row, view = moment
        top, left, h, w, is_flipped = random_view(seed, epoch, row, view, height, width, scale, ratio, flip)
    elif kind == STORED:
        top, left, h, w, is_flipped = stored_view(stored, height, width)
    else:
        top, left, h, w = center_crop(height, width, 1.0)
    _resize(
        *(0, pixels.ctypes.data, height, width, top, top + h, left, left + w),
        *(out.ctypes.data, out.shape[0], out.shape[1]),
    )
    if is_flipped:
        out[:] = out[:, ::-1].copy()


@njit(nogil=True, cache=True)
def view_of(sample, table, storage, key, crop, stored, scratch, out):  # type: ignore[no-untyped-def]
    """Write one view of an image into `out`.

    sample: row and epoch. table: FFCV's records. storage: the bytes of the .beton, and the size of each row's image.
    key: (seed, view). crop, stored: as for `cut`.
    """
    row, epoch = sample & ROW_MASK, sample >> EPOCH_BIT
    content, sizes = storage
    pixels = stored_pixels(table[row], sizes[row], content, scratch)
    cut(pixels, (key[0], epoch, row, key[1]), crop, stored, out)


@njit(nogil=True, cache=True)
def views_of(samples, table, storage, key, crop, stored, scratch, out):  # type: ignore[no-untyped-def]
    """Write one view of each image of samples (B,) int64 into out (B, size, size, 3).

    stored: (B, 5) float32. scratch: (B, bytes).
    """
    for i in range(len(samples)):
        view_of(samples[i], table, storage, key, crop, stored[i], scratch[i], out[i])


@njit(nogil=True, cache=True, parallel=True)
def views_of_by_threads(samples, table, storage, key, crop, stored, scratch, out):  # type: ignore[no-untyped-def]
    """As `views_of`, with numba's threads."""
    for i in prange(len(samples)):
        view_of(samples[i], table, storage, key, crop, stored[i], scratch[i], out[i])
