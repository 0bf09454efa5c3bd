"""Values as text for people."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> str:
    """A value of a JSON record as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(plain(inner) for inner in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def human_bytes(count: int) -> str:
    """1536 -> "1.5 KiB"."""
    power = min(int(math.log(count, 1024)), 4) if count else 0
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{count / 1024**power:.1f} {unit}" if power else f"{count} bytes"
