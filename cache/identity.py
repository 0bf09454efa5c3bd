"""Identities of datasets and teachers as plain JSON: canonical form, id, and differences."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_SHOWN = 80  # characters
_MISSING = object()


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of a value: keys sorted, no spaces, ASCII. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity_id(identity: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of the identity's canonical JSON."""
    return hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()


def identity_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return "field: expected X, found Y" for each field that differs; nested fields are dotted.

    Fields are in the order of `expected`, followed by those that only `found` has. For two long lists only the
    lengths or the first differing item are reported.
    """
    return list(_differences("", expected, found))


def _differences(name: str, expected: Any, found: Any) -> Iterator[str]:
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*expected, *found]):
            inner = f"{name}.{key}" if name else key
            yield from _differences(inner, expected.get(key, _MISSING), found.get(key, _MISSING))
    elif not _same(expected, found):
        if _is_long_list(expected) and _is_long_list(found):
            yield _list_difference(name, expected, found)
        else:
            yield f"{name}: expected {_shown(expected)}, found {_shown(found)}"


def _list_difference(name: str, expected: list, found: list) -> str:
    if len(expected) != len(found):
        return f"{name}: expected {len(expected)} items, found {len(found)}"
    first = next(i for i, pair in enumerate(zip(expected, found, strict=True)) if not _same(*pair))
    return f"{name}[{first}]: expected {_shown(expected[first])}, found {_shown(found[first])}"


def _same(expected: Any, found: Any) -> bool:
    if _MISSING in (expected, found):
        return False
    # as JSON, because a tuple is read back from a store as a list
    return canonical_json(expected) == canonical_json(found)


def _is_long_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(canonical_json(value)) > LONGEST_SHOWN


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
