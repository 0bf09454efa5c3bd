"""Training curves are read, smoothed and plotted by objective."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.images.dataset import open_dataset
from pipeline.report.curves import epochs, loss_lines, plots, read_curves
from pipeline.report.systems import System, load_systems
from tests.support.report_targets import write_run, write_store


def test_a_half_written_last_line_is_passed_over_and_any_other_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5, "lr": 0.1}\n{"step": 3, "lo')
    found = read_curves(tmp_path)
    assert found["loss"][0].tolist() == [1, 2]
    assert found["loss"][1].tolist() == [2.0, 1.5]
    assert found["lr"][0].tolist() == [2]
    log.write_text('{"step": 1, "lo\n{"step": 2, "loss": 1.5}\n')
    with pytest.raises(PipelineError, match="line 1"):
        read_curves(tmp_path)
    assert read_curves(tmp_path / "nowhere") == {}


def system(**settings: float) -> System:
    record = {"made_of": {"dataset": {"rows": 105}}}
    return System(
        path=Path("run"), name="run", role="student", record=record, settings={"batch_size": 10, **settings}
    )


def test_steps_are_epochs_of_the_rows_trained_on() -> None:
    # The last batch of an epoch is dropped: 10 steps of 105 rows, 5 of a half of them.
    assert epochs(system(), np.array([10, 25])).tolist() == [1.0, 2.5]
    assert epochs(system(subset=0.5), np.array([10])).tolist() == [2.0]


def test_the_drawn_loss_is_a_centred_mean() -> None:
    steps = np.arange(1, 201)
    faint, mean = loss_lines(system(), (steps, steps.astype(float)), hue=0)
    assert faint.faint
    # The mean of a straight line, taken around its middle, is that line.
    np.testing.assert_allclose(np.asarray(mean.y), 10 * np.asarray(mean.x), rtol=1e-12)
    assert len(np.asarray(mean.x)) == 200 - 20, "of 21 values each"
    short = loss_lines(system(), (steps[:4], steps[:4].astype(float)), hue=0)[1]
    assert len(np.asarray(short.y)) == 4


def test_each_objective_has_its_own_axes_and_accuracy_is_together(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "cache.zarr", dataset)
    runs = [
        write_run(
            tmp_path / f"{objective}{seed}", dataset, cache, store=False, objective=objective, seed=seed
        )
        for objective in ("1q", "2q")
        for seed in (0, 1)
    ]
    made = plots(load_systems(runs))
    assert [plot.title for plot in made] == [
        "Training loss, 1q",
        "Training loss, 2q",
        "Accuracy during training",
    ]
    assert made[0].legend == [("resnet18 1q", 0, False)], "seeds share a line of the legend"
    assert [name for name, _, _ in made[2].legend] == ["resnet18 1q", "resnet18 2q"]
    for run in runs:
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "lr": 0.1}) + "\n")
    with pytest.raises(PipelineError, match="training log"):
        plots(load_systems(runs))
