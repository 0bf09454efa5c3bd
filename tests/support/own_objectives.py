"""Objectives of a user's own, by `package.module:function`."""

from typing import Any

from pipeline.objectives.regression import Regression


class OfTwoCrops(Regression):
    views = 2


def of_two_crops(config: object, student_dim: int, split: Any, rows: object) -> OfTwoCrops:
    return OfTwoCrops(student_dim=student_dim, teacher_dim=split.shape.dim)
