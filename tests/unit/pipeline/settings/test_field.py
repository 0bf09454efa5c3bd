"""Settings within their bounds and choices."""

from pathlib import Path

import pytest

from pipeline.errors import WrongUse
from pipeline.settings.cache_commands import CacheTeacherConfig
from pipeline.settings.plan import PlanConfig
from pipeline.settings.training import DistillConfig

PLACES = {"dataset": Path("d"), "cache": Path("c"), "run": Path("r")}


@pytest.mark.parametrize(
    "changes", [{}, {"epochs": 0, "momentum": 1.0, "crop_scale": (1.0, 1.0), "seed": 2**32 - 1}]
)
def test_the_defaults_and_the_ends_of_each_range_are_allowed(changes: dict[str, object]) -> None:
    config = DistillConfig(**PLACES, **changes)
    assert {name: getattr(config, name) for name in changes} == changes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 2**32}, "--seed: expected a number from 0 to 4294967295, found 4294967296"),
        ({"epochs": -1}, "--epochs: expected a number of at least 0, found -1"),
        ({"tau": float("nan")}, "--tau: expected a finite number of at least 0, found nan"),
        ({"warmup": float("inf")}, "--warmup: expected a finite number of at least 0, found inf"),
        ({"crop_scale": (0.2, 1.5)}, "--crop-scale: expected a number from 0.001 to 1, found 1.5"),
        ({"crop_scale": (1.0, 0.1)}, "--crop-scale: expected the lower bound first, found 1.0 0.1"),
        (
            {"optimizer": "adam"},
            "--optimizer: expected sgd, nesterov or adamw, found 'adam'; did you mean 'adamw'?",
        ),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(WrongUse) as refusal:
        DistillConfig(**PLACES, **changes)
    assert str(refusal.value) == sentence


def test_what_meant_the_default_before_none_still_does() -> None:
    given = DistillConfig(
        **PLACES, lr=0.0, tau=0, student_tau=0.0, anchors="", schedule="own", head_dim=0, eval_every=0
    )
    assert given == DistillConfig(**PLACES)
    assert (given.lr, given.tau, given.anchors, given.schedule, given.eval_every) == (None,) * 5
    assert CacheTeacherConfig(dataset=Path(), cache=Path(), image_size=0, workers=0).workers is None
    assert PlanConfig(images=10, rate=0.0, gpus=0) == PlanConfig(images=10)
    assert PlanConfig(images=10, val_images=0).val_images == 0
