"""Random damage to the bytes of a file: the result always differs from the input."""

import random


def flip(draw: random.Random, data: bytes) -> bytes:
    """Flip one bit."""
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flip_several(draw: random.Random, data: bytes) -> bytes:
    """Flip two to sixty-four different bits."""
    changed = bytearray(data)
    for bit in draw.sample(range(8 * len(data)), draw.randint(2, min(64, len(data)))):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def truncate(draw: random.Random, data: bytes) -> bytes:
    """Cut off the end, or everything."""
    return data[: draw.randrange(len(data))]


def extend(draw: random.Random, data: bytes) -> bytes:
    """Append noise."""
    return data + draw.randbytes(draw.randint(1, 9000))


def zero(draw: random.Random, data: bytes) -> bytes:
    """Replace every byte by zero."""
    return bytes(len(data))


def overwrite(draw: random.Random, data: bytes) -> bytes:
    """Replace a stretch by noise, as in a lost sector; its first byte always differs."""
    start = draw.randrange(len(data))
    noise = bytearray(draw.randbytes(min(draw.randint(1, 8192), len(data) - start)))
    noise[0] = data[start] ^ draw.randint(1, 255)
    return data[:start] + bytes(noise) + data[start + len(noise) :]
