"""Identities: canonical JSON, ids and differences."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.identity import canonical_json, identity_difference, identity_id

EXAMPLES = settings(deadline=None, max_examples=50)


def test_canonical_json_by_hand() -> None:
    assert canonical_json({"b": (1, 2.5), "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_identity_id_by_hand() -> None:
    # printf '{"a":1,"b":2}' | sha256sum
    expected = "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777"
    assert identity_id({"b": 2, "a": 1}) == identity_id({"a": 1, "b": 2}) == expected


def test_identity_difference_is_nested_and_ordered_and_includes_missing_fields() -> None:
    expected = {"name": "a", "pre": {"mean": (0.5, 0.25), "std": [1.0], "crop": 224}, "dim": 8}
    found = {"pre": {"mean": [0.5, 0.5], "std": [1.0]}, "name": "b", "dim": 8, "extra": None}
    assert identity_difference(expected, found) == [
        'name: expected "a", found "b"',
        "pre.mean: expected [0.5, 0.25], found [0.5, 0.5]",
        "pre.crop: expected 224, found nothing",
        "extra: expected nothing, found null",
    ]


def test_identity_difference_of_long_lists_is_the_first_item_that_differs() -> None:
    classes = [f"class {i}" for i in range(1000)]
    other = [*classes[:700], "dog", "cat", *classes[702:]]
    shorter = classes[:-1]
    assert identity_difference({"classes": classes}, {"classes": other}) == [
        'classes[700]: expected "class 700", found "dog"'
    ]
    assert identity_difference({"classes": classes}, {"classes": shorter}) == [
        "classes: expected 1000 items, found 999"
    ]


FIELDS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.sampled_from(["0", None, True]))


@EXAMPLES
@given(left=FIELDS, right=FIELDS)
def test_identities_differ_exactly_when_their_ids_do(left: dict, right: dict) -> None:
    left, right = {"x": 0, "inner": left}, {"inner": right, "x": 0}
    assert (identity_difference(left, right) == []) == (identity_id(left) == identity_id(right))
