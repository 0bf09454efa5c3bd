"""What happened while the runs trained: loss and accuracy, from their metrics.jsonl."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.report.figures import Plot, Series, line_plot
from pipeline.report.systems import System

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
SMOOTH = 25  # logged values that a drawn loss is the mean of, at most; a tenth of a short log
DRAWN = 500  # points of a drawn line


def read_curves(run: Path) -> dict[str, Curve]:
    """Metric -> (step, value), in the order of the log; a half-written last line is passed over.

    Raises PipelineError where a line before the last cannot be read.
    """
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            step = values.pop("step")
        except (ValueError, KeyError, AttributeError) as error:
            if number == len(lines):
                break
            raise PipelineError(f"{path}: line {number} is no record of a step ({error!r})") from None
        for name, value in values.items():
            found.setdefault(name, []).append((step, value))
    return {name: (np.array([s for s, _ in at]), np.array([v for _, v in at])) for name, at in found.items()}


def plots(systems: Sequence[System]) -> list[Plot]:
    """A plot of the losses of each objective, whose scales differ, and one of accuracy while training.

    Raises PipelineError when none of the systems has trained.
    """
    trained = [(system, read_curves(system.path)) for system in systems if system.record]
    trained = [(system, curves) for system, curves in trained if "loss" in curves]
    if not trained:
        raise PipelineError("none of the systems is a run that has trained")
    hues = {name: hue for hue, name in enumerate(dict.fromkeys(system.name for system, _ in trained))}
    made = []
    for kind in dict.fromkeys(objective(system) for system, _ in trained):
        members = [(system, curves["loss"]) for system, curves in trained if objective(system) == kind]
        lines = [line for system, curve in members for line in loss_lines(system, curve, hues[system.name])]
        made.append(
            line_plot(
                lines,
                title=f"Loss of {kind}",
                caption="Training loss: a running mean, and faintly what was logged.",
                x="epoch",
                y="loss",
            )
        )
    return made + accuracy_plot([(system, curves) for system, curves in trained if "nn1" in curves], hues)


def accuracy_plot(trained: Sequence[tuple[System, dict[str, Curve]]], hues: dict[str, int]) -> list[Plot]:
    """Nearest-neighbour accuracy by epoch, where runs were asked for it."""
    if not trained:
        return []
    lines = [
        Series(
            name=system.name,
            x=epochs(system, curves["nn1"][0]),
            y=100 * curves["nn1"][1],
            hue=hues[system.name],
            dots=True,
        )
        for system, curves in trained
    ]
    caption = (
        "1-NN accuracy on the validation images while training, on features of the network as it was then."
    )
    return [line_plot(lines, title="Accuracy while training", caption=caption, x="epoch", y="1-NN, %")]


def objective(system: System) -> str:
    """What the run was trained with."""
    return str(system.settings.get("objective", "SimCLR"))


def epochs(system: System, step: NDArray[np.int64]) -> NDArray[np.float64]:
    """Steps as epochs of the rows trained on."""
    rows = system.record["made_of"]["dataset"]["rows"] * system.settings.get("subset", 1.0)
    return step / max(rows // system.settings["batch_size"], 1)


def loss_lines(system: System, curve: Curve, hue: int) -> list[Series]:
    """The loss as it was logged, thinned, and its running mean."""
    x, y = epochs(system, curve[0]), curve[1]
    width = min(SMOOTH, len(y) // 10) | 1  # odd, so that it has a middle
    mean = np.convolve(y, np.ones(width) / width, mode="valid")
    thin, thin_mean = (max(1, -(-len(values) // DRAWN)) for values in (y, mean))
    return [
        Series(name=system.name, x=x[::thin], y=y[::thin], hue=hue, faint=True),
        Series(name=system.name, x=x[width // 2 :][: len(mean) : thin_mean], y=mean[::thin_mean], hue=hue),
    ]
