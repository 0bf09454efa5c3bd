"""VOC classification: known answers, chance, scikit-learn's classifier, and a whole folder through a student."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from pipeline.errors import PipelineError
from pipeline.evaluate.voc.average_precision import IGNORED, NEGATIVE, POSITIVE, average_precision
from pipeline.evaluate.voc.classification import (
    DECAYS,
    VocFeatures,
    best_decay,
    evaluate,
    evaluate_voc,
    fit,
    scores,
)
from pipeline.models.student_file import save_student
from pipeline.models.students import build_student
from pipeline.runtime.device import CPU
from pipeline.settings.commands import EvalConfig
from tests.support.voc_folder import draw_voc

CLASSES, DIM = 4, 12


def draw(rows: int, seed: int, noise: float = 0.05) -> VocFeatures:
    """Images with any number of the classes; the feature is the sum of their directions, which are axes."""
    draws = np.random.default_rng(seed)
    present = draws.random((rows, CLASSES)) < 0.4
    feature = present @ np.eye(CLASSES, DIM) + 0.3 + noise * draws.standard_normal((rows, DIM))
    return VocFeatures(feature.astype(np.float32), np.where(present, POSITIVE, NEGATIVE))


def relabelled(data: VocFeatures, seed: int) -> VocFeatures:
    """The same images with their labels dealt anew."""
    return VocFeatures(data.feature, np.random.default_rng(seed).permutation(data.label))


def test_planted_answers_are_found() -> None:
    result = dict(evaluate(draw(200, 1), draw(100, 2), draw(100, 3)))
    assert result == {"voc": pytest.approx(1.0), "voc_area": pytest.approx(1.0)}


def test_shuffled_labels_are_chance() -> None:
    splits = [relabelled(draw(rows, rows), rows) for rows in (300, 301, 1000)]
    result = dict(evaluate(*splits))
    # chance is the share of positives, 0.4; over 1000 images and 4 classes it moves by about 0.01
    assert result["voc_area"] == pytest.approx(0.4, abs=0.05)
    assert result["voc"] == pytest.approx(0.4, abs=0.1)


def standardised(data: VocFeatures) -> NDArray[np.float64]:
    unit = data.feature.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return (unit - unit.mean(axis=0)) / np.sqrt(unit.var(axis=0, ddof=1) + 1e-5)


@pytest.mark.parametrize("decay", [0.01, 1.0])
def test_each_class_is_scikit_learns_logistic_regression(decay: float) -> None:
    data = draw(150, 5, noise=0.5)
    data.label[np.random.default_rng(0).random(data.label.shape) < 0.2] = IGNORED
    probe = fit(data, np.full(CLASSES, decay), CPU)
    feature = standardised(data)
    for column in range(CLASSES):
        counted = data.label[:, column] != IGNORED
        # its C weighs the sum over images against the decay, here it is their mean
        model = LogisticRegression(C=1 / (decay * counted.sum()), tol=1e-10, max_iter=1000)
        model.fit(feature[counted], data.label[counted, column] == POSITIVE)
        expected = model.decision_function(feature)
        # both stop where the gradient is small; at 0.01 the minimum is flat to about 1e-3
        assert scores(probe, data, CPU)[:, column] == pytest.approx(expected, abs=5e-3)


def test_the_decay_is_each_classs_own_and_the_best_on_val() -> None:
    train, val = draw(40, 7, noise=1.0), draw(400, 8, noise=1.0)
    # class 0 depends on one clear dimension, the others on noisy ones
    for data in (train, val):
        data.feature[:, -1] = 10 * (data.label[:, 0] == POSITIVE)
    chosen = best_decay(train, val, CPU)
    assert len(set(chosen)) > 1
    for column, decay in enumerate(chosen):
        areas = {}
        for other in DECAYS:
            score = scores(fit(train, np.full(CLASSES, other), CPU), val, CPU)[:, column]
            verdict = val.label[:, column]
            areas[other] = average_precision(score, verdict, int(np.sum(verdict == POSITIVE))).area
        # fitted one by one or side by side, the minimum is the same to a few ranks among 400
        assert areas[decay] == pytest.approx(max(areas.values()), abs=2e-3)


def test_features_that_are_no_numbers_are_refused() -> None:
    data = draw(50, 9)
    data.feature[3] = np.inf
    with pytest.raises(PipelineError, match="the backbone's features"):
        fit(data, np.full(CLASSES, 0.1), CPU)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained student whose four times eight numbers tell colours apart."""
    folder = tmp_path_factory.mktemp("voc-run")
    save_student(folder, build_student("tests.support.tiny_student:plain", image_size=24, seed=0), {})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_voc(tmp_path_factory.mktemp("drawn"), {"train": 60, "val": 40, "test": 80})


def test_a_folder_of_colours_is_told_apart_by_an_untrained_student(run: Path, folder: Path) -> None:
    config = EvalConfig(targets=(run,), dataset=folder, device="cpu")
    result = dict(evaluate_voc(run, folder, config))
    # chance is the share of images with the class, 0.44 here; colours are plain even to random filters
    assert result["voc_area"] > 0.8
    assert result["voc"] > 0.8
    assert dict(evaluate_voc(run, folder, config)) == result


def test_an_image_that_cannot_be_read_is_named(run: Path, tmp_path: Path) -> None:
    root = draw_voc(tmp_path, {"train": 12, "val": 12, "test": 12})
    (root / "JPEGImages" / "val-0007.jpg").write_bytes(b"no image")
    with pytest.raises(PipelineError, match=r"val-0007\.jpg cannot be read: not an image"):
        list(evaluate_voc(run, root, EvalConfig(targets=(run,), dataset=root, device="cpu")))
