"""Linear evaluation on cached features against scikit-learn's LogisticRegression."""

import statistics
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.embedding.extract import ExtractionSettings, extract
from pipeline.evaluate import linear
from pipeline.evaluate.features import LabeledFeatures
from pipeline.images.preprocessing import IMAGENET
from pipeline.images.sources import open_sources
from pipeline.models.backbone import Recipe, freeze
from pipeline.models.students import build_student
from pipeline.runtime.device import CPU
from recipes.fashion_mnist.images import CLASSES, fashion_mnist
from tests.benchmarks.figure import Figure, interleaved, ratio

COUNTS = {"train": 60_000, "val": 10_000}
ITERATIONS, DEFAULT_ITERATIONS = (
    10_000,
    100,
)  # the first is never reached, the second is scikit-learn's default


def measure(folder: Path) -> Iterator[Figure]:
    """Time the probe on Fashion-MNIST embedded by an untrained ResNet-34, 512-d, which is computed before."""
    train, val = embedded(folder)
    ours, (theirs, iterations) = dict(linear.evaluate(train, val)), regression(train, val, ITERATIONS)
    enough = iterations_needed(train, val, ours["linear"])
    peers = {"converged": ITERATIONS, "default": DEFAULT_ITERATIONS, "stopped": enough}
    seconds = interleaved(
        {
            "linear evaluation": lambda: dict(linear.evaluate(train, val)),
            **{name: partial(regression, train, val, count) for name, count in peers.items()},
        },
        warm=0,  # each has run once
    )
    middle = {name: statistics.median(of) for name, of in seconds.items()}
    details = {
        "accuracy": ours,
        "LogisticRegression's accuracy": theirs,
        "its iterations until it converges": iterations,
        "iterations after which it is first as accurate": enough,
        "seconds": middle,
    }
    steps, parts = linear.EPOCHS * -(-len(train.label) // linear.BATCH_ROWS), microseconds(train)
    most = middle["stopped"] / (steps * parts["products"] * 1e-6)
    bound = (
        f"the paper's 40 epochs are {steps:,} sequential steps of {1e6 * middle['linear evaluation'] / steps:.0f} us, "
        f"of which two products take {parts['products']:.0f} (the other core fetches 256 random rows in "
        f"{parts['fetch']:.0f}); with steps of products alone, {most:.1f} x the speed of just enough iterations; "
        f"accuracy {ours['linear']:.4f} against {theirs:.4f} at convergence"
    )
    for name, against, bar in (
        ("converged", "until convergence", None),
        ("default", "with its default of 100 iterations", None),
        ("stopped", "with just enough iterations, known in advance", 3.0),
    ):
        yield Figure(
            name=f"linear-{name}",
            what="linear evaluation on cached features, 60,000 x 512, 40 epochs",
            against=f"scikit-learn's LogisticRegression on standardised rows, {against}",
            ratio=ratio(seconds, name, "linear evaluation"),
            unit="x its speed",
            at_least=bar,
            seconds=seconds,
            bound=bound,
            details=details,
        )


def embedded(folder: Path) -> tuple[LabeledFeatures, LabeledFeatures]:
    """Return train and val with the precision of a store."""
    sources = open_sources(fashion_mnist(folder / "images", **COUNTS))
    settings = ExtractionSettings(device=CPU, precision="bf16", batch_size=128, threads=2)
    name, found = "torchvision/resnet34", []
    network = build_student(name, image_size=32, seed=0).network
    recipe = Recipe(module=network, architecture=name, feature="pooled", preprocessing=IMAGENET.at(32))
    backbone = freeze(recipe, name)
    for name in ("train", "val"):
        feature = extract(backbone, sources[name].read, range(COUNTS[name]), settings).feature
        rows = (
            (feature / np.linalg.norm(feature, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
        )
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        found.append(LabeledFeatures(rows, sources[name].labels, len(CLASSES)))
    return found[0], found[1]


def regression(train: LabeledFeatures, val: LabeledFeatures, iterations: int) -> tuple[float, int]:
    """Return the accuracy on val and the iterations; without standardised rows it is less accurate and slower."""
    scaler = StandardScaler().fit(train.embedding)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier = LogisticRegression(max_iter=iterations).fit(
            scaler.transform(train.embedding), train.label
        )
    return float(classifier.score(scaler.transform(val.embedding), val.label)), int(classifier.n_iter_[0])


def iterations_needed(train: LabeledFeatures, val: LabeledFeatures, accuracy: float) -> int:
    """Return the smallest power of two up to 128 that reaches an accuracy, or ITERATIONS."""
    counts = [2**power for power in range(3, 8)]
    return next((count for count in counts if regression(train, val, count)[0] >= accuracy), ITERATIONS)


def microseconds(train: LabeledFeatures) -> dict[str, float]:
    """Return the time of the indispensable parts of a step, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows, weight = torch.from_numpy(train.embedding), torch.zeros(train.classes, train.embedding.shape[1])
    batches = torch.randperm(len(rows)).split(linear.BATCH_ROWS)[:200]
    found = {"fetch": 0.0, "products": 0.0}
    for batch in batches:
        began = time.perf_counter()
        some = rows.index_select(0, batch)
        fetched = time.perf_counter()
        (weight @ some.T) @ some
        found["fetch"] += (fetched - began) / len(batches) * 1e6
        found["products"] += (time.perf_counter() - fetched) / len(batches) * 1e6
    torch.set_num_threads(threads)
    return found
