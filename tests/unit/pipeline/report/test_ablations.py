"""Runs that differ in one setting alone form a group."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.images.dataset import open_dataset
from pipeline.report import paper
from pipeline.report.ablations import groups, plots
from pipeline.report.systems import load_systems
from tests.support.report_targets import write_run, write_store


@pytest.fixture(scope="module")
def runs(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two temperatures of 1q in two seeds each, one temperature of 2q, and one run with another learning rate."""
    root = tmp_path_factory.mktemp("ablations")
    dataset = open_dataset(packed)
    cache = write_store(root / "cache.zarr", dataset)
    settings: list[dict] = [
        {"nn1": 0.5, "tau": 0.04, "seed": 0},
        {"nn1": 0.6, "tau": 0.04, "seed": 1},
        {"nn1": 0.3, "tau": 0.02, "seed": 0},
        {"nn1": 0.3, "tau": 0.02, "seed": 1},
        {"nn1": 0.9, "tau": 0.04, "objective": "2q"},
        {"nn1": 0.8, "tau": 0.07, "wd": 1.0},
    ]
    return [write_run(root / f"{n}", dataset, cache, store=False, **own) for n, own in enumerate(settings)]


def test_a_group_differs_in_the_knob_alone(runs: list[Path]) -> None:
    found = groups(load_systems(runs), "tau")
    assert list(found) == ["resnet18 1q"]
    assert {tau: sorted(values) for tau, values in found["resnet18 1q"].items()} == {
        0.02: [30.0, 30.0],
        0.04: [50.0, 60.0],
    }
    assert list(found["resnet18 1q"]) == [0.02, 0.04], "ascending, as a line needs it"
    assert groups(load_systems(runs), "anchors") == {}


def test_the_plots_lay_the_runs_beside_the_paper(runs: list[Path]) -> None:
    # none differ in their anchors alone, so there is no such plot
    (tau,) = plots(load_systems(runs))
    assert tau.title == "Temperature"
    assert [name for name, _, _ in tau.legend] == ["paper (25 % of ImageNet)", "resnet18 1q"]
    for value in (min(paper.TAU), max(paper.TAU)):
        assert f">{value:g}<" in tau.svg


def test_the_papers_curves_are_not_plotted_alone(runs: list[Path]) -> None:
    with pytest.raises(PipelineError, match="no two evaluated runs here differ only in their temperature"):
        plots(load_systems(runs[:2]))


def test_runs_from_two_caches_are_no_ablation(packed: Path, tmp_path: Path) -> None:
    dataset = open_dataset(packed)
    caches = [write_store(tmp_path / f"{seed}.zarr", dataset, seed=seed) for seed in (0, 1)]
    runs = [
        write_run(tmp_path / cache.stem, dataset, cache, store=False, tau=tau)
        for cache, tau in zip(caches, (0.04, 0.1), strict=True)
    ]
    assert groups(load_systems(runs), "tau") == {}
