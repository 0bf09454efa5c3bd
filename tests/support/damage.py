"""Damage to the bytes of a file, drawn at random; what comes back always differs from what was given."""

import random


def flip(draw: random.Random, data: bytes) -> bytes:
    """One bit."""
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flip_several(draw: random.Random, data: bytes) -> bytes:
    """Two to sixty-four bits, no bit twice."""
    changed = bytearray(data)
    for bit in draw.sample(range(8 * len(data)), draw.randint(2, min(64, len(data)))):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def truncate(draw: random.Random, data: bytes) -> bytes:
    """Any part of the end is gone, or all of it."""
    return data[: draw.randrange(len(data))]


def extend(draw: random.Random, data: bytes) -> bytes:
    """Noise follows."""
    return data + draw.randbytes(draw.randint(1, 9000))


def zero(draw: random.Random, data: bytes) -> bytes:
    """As many bytes of zero."""
    return bytes(len(data))


def overwrite(draw: random.Random, data: bytes) -> bytes:
    """Noise in place of a stretch, as of a lost sector; its first byte differs for certain."""
    start = draw.randrange(len(data))
    noise = bytearray(draw.randbytes(min(draw.randint(1, 8192), len(data) - start)))
    noise[0] = data[start] ^ draw.randint(1, 255)
    return data[:start] + bytes(noise) + data[start + len(noise) :]
