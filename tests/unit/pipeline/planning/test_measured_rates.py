"""Rates measured on this machine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import Client

from pipeline.planning import measured_rates, measured_step
from pipeline.planning.table import compute_plan
from pipeline.settings.plan import PlanConfig


def test_a_packed_dataset_is_planned_with_measured_rates(
    packed: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only that it measures: tests/benchmarks shows how well. GPUs whose driver is too old are not of the plan."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(measured_step, "SECONDS", 0.02)
    # the test cluster has one worker
    monkeypatch.setattr(measured_rates, "share_of_machine", lambda *wanted, **settings: (1, 1))
    monkeypatch.setattr(measured_rates, "open_client", lambda **settings: Client(scheduler))
    plan = compute_plan(
        PlanConfig(dataset=packed, teacher="pixels", image_size=16, batch_size=32, epochs=2, anchors="64")
    )
    assert plan.rates.startswith("measured here")
    numbers = [plan.stage_one.seconds, plan.stage_two.seconds, plan.live_seconds, plan.break_even, plan.reads]
    assert np.isfinite(numbers).all()
    assert min(numbers) > 0
    assert plan.live_seconds > plan.stage_two.seconds
