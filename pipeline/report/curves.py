"""Training curves of runs: loss and accuracy, from their metrics.jsonl."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.report.figures import Plot, Series, line_plot
from pipeline.report.systems import System

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
SMOOTH = 25  # logged values in the running mean of the loss; a tenth of a shorter log
MOST_POINTS = 500  # per line


def read_curves(run: Path) -> dict[str, Curve]:
    """Read the log: metric -> (steps, values), in order. A last line that is only half written is ignored.

    Raises PipelineError for any other line that cannot be read.
    """
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    logged: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            step = values.pop("step")
        except (ValueError, KeyError, AttributeError) as error:
            if number == len(lines):
                break
            raise PipelineError(f"{path}: line {number} is not a logged step ({error!r})") from None
        for name, value in values.items():
            logged.setdefault(name, []).append((step, value))
    return {
        name: (np.array([step for step, _ in pairs]), np.array([value for _, value in pairs]))
        for name, pairs in logged.items()
    }


def plots(systems: Sequence[System]) -> list[Plot]:
    """Plot the losses, one plot per objective since their scales differ, and the accuracy during training.

    Raises PipelineError if no system is a run with a log.
    """
    trained = [(system, read_curves(system.path)) for system in systems if system.record]
    trained = [(system, curves) for system, curves in trained if "loss" in curves]
    if not trained:
        raise PipelineError("no system here is a run with a training log")
    hues = {name: hue for hue, name in enumerate(dict.fromkeys(system.name for system, _ in trained))}
    loss_plots = []
    for kind in dict.fromkeys(objective(system) for system, _ in trained):
        members = [(system, curves["loss"]) for system, curves in trained if objective(system) == kind]
        lines = [line for system, curve in members for line in loss_lines(system, curve, hues[system.name])]
        loss_plots.append(
            line_plot(
                lines,
                title=f"Training loss, {kind}",
                caption="Running mean; logged values are faint.",
                x="epoch",
                y="loss",
            )
        )
    monitored = [(system, curves) for system, curves in trained if "nn1" in curves]
    return loss_plots + accuracy_plot(monitored, hues)


def accuracy_plot(trained: Sequence[tuple[System, dict[str, Curve]]], hues: dict[str, int]) -> list[Plot]:
    """Plot the k-NN accuracy of runs that logged it; [] if there is none."""
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
    caption = "1-NN accuracy of the student's features on the validation images."
    return [
        line_plot(lines, title="Accuracy during training", caption=caption, x="epoch", y="1-NN accuracy (%)")
    ]


def objective(system: System) -> str:
    """Return the run's objective, SimCLR for `pretrain`."""
    return str(system.settings.get("objective", "SimCLR"))


def epochs(system: System, step: NDArray[np.int64]) -> NDArray[np.float64]:
    """Convert steps to epochs of the rows trained on."""
    rows = system.record["made_of"]["dataset"]["rows"] * system.settings.get("subset", 1.0)
    return step / max(rows // system.settings["batch_size"], 1)


def loss_lines(system: System, curve: Curve, hue: int) -> list[Series]:
    """Return the logged loss and its running mean, both thinned to MOST_POINTS."""
    x, y = epochs(system, curve[0]), curve[1]
    width = min(SMOOTH, len(y) // 10) | 1  # odd, so that the mean is centred
    mean = np.convolve(y, np.ones(width) / width, mode="valid")
    every, every_mean = (math.ceil(len(values) / MOST_POINTS) for values in (y, mean))
    return [
        Series(name=system.name, x=x[::every], y=y[::every], hue=hue, faint=True),
        Series(name=system.name, x=x[width // 2 :][: len(mean) : every_mean], y=mean[::every_mean], hue=hue),
    ]
