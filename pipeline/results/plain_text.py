"""Values as human-readable text."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> str:
    """Format a value of a JSON record: {"crop": 96, "mean": [0.5, 0.5]} -> "crop 96, mean 0.5 0.5"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(plain(inner) for inner in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plain_fields(record: Mapping[str, Any]) -> dict[str, str]:
    """Format the values of a record; fields that are None are left out."""
    return {key: plain(value) for key, value in record.items() if value is not None}


def human_bytes(count: int) -> str:
    """Format a number of bytes: 1536 -> "1.5 KiB"."""
    power = min(int(math.log(count, 1024)), 4) if count else 0
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{count / 1024**power:.1f} {unit}" if power else f"{count} bytes"
