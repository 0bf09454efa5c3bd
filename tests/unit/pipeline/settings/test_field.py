"""Settings within their bounds and choices."""

from pathlib import Path

import pytest

from pipeline.errors import WrongUse
from pipeline.settings.commands import DistillConfig
from pipeline.settings.field import checked

PLACES = {"dataset": Path("d"), "cache": Path("c"), "run": Path("r")}


def test_the_defaults_and_the_ends_of_each_range_are_allowed() -> None:
    for changes in ({}, {"epochs": 0, "momentum": 1.0, "crop_scale": (1.0, 1.0), "seed": 2**32 - 1}):
        config = DistillConfig(**PLACES, **changes)
        assert checked(config) is config


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 2**32}, "--seed 4294967296: expected a number at least 0 and at most 4294967295"),
        ({"tau": float("nan")}, "--tau nan: expected a number that is finite"),
        ({"warmup": float("inf")}, "--warmup inf: expected a number at least 0"),
        ({"crop_scale": (0.2, 1.5)}, "--crop-scale 1.5: expected a number at least 0.001 and at most 1"),
        ({"optimizer": "adam"}, "--optimizer adam: expected sgd, adamw; did you mean 'adamw'?"),
    ],
)
def test_what_lies_beyond_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(WrongUse) as refusal:
        checked(DistillConfig(**PLACES, **changes))
    assert str(refusal.value) == sentence
