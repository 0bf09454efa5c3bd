"""Training on a GPU: an interrupted run ends as an uninterrupted one does."""

from pathlib import Path

import pytest
import torch

from pipeline.settings.training import DistillConfig
from pipeline.training.distill import distill
from tests.support.training_runs import assert_same_run, distill_in_two, settings


def run_of(packed: Path, cached: Path, run: Path, device: torch.device, objective: str) -> DistillConfig:
    return settings(packed, cached, run, device=device.type, objective=objective, deterministic=True)


@pytest.mark.parametrize("objective", ["1q", "2q", "crd"])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    packed: Path,
    cached: Path,
    tmp_path: Path,
    device: torch.device,
    objective: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --deterministic, bit for bit: it crashes in the last of 12 steps and goes on after the 9th."""
    whole, resumed = (
        run_of(packed, cached, tmp_path / name, device, objective) for name in ("whole", "resumed")
    )
    distill(whole)
    distill_in_two(resumed, monkeypatch)
    assert_same_run(whole.run, resumed.run)
