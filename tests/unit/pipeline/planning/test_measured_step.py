"""A step's parts from planted measurements, and what each of them covers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.planning import measured_step
from pipeline.planning.inputs import packed_images, planned_images
from pipeline.planning.measured_step import measure_loader, measure_loss, measure_student
from pipeline.planning.network_cost import NetworkCosts, network_costs, planned_teacher
from pipeline.runtime.device import CPU
from pipeline.settings.plan import PlanConfig


def planted(monkeypatch: pytest.MonkeyPatch, **settings: object) -> tuple[PlanConfig, NetworkCosts]:
    """Networks do 100 images/s, and whatever is timed by itself takes half a second."""
    monkeypatch.setattr(measured_step, "images_per_second", lambda *call: 100.0)
    monkeypatch.setattr(measured_step, "seconds_of", lambda *call: 0.5)
    config = PlanConfig(images=1000, picture_bytes=3000, teacher="pixels", image_size=32, batch_size=50)
    config = replace(config, **settings)  # type: ignore[arg-type]
    return config, network_costs(config, planned_images(config), planned_teacher(config))


def test_the_optimizer_steps_once_however_many_images_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 images at 100/s and half a second; the key encoder of 2q takes 50 images at 100/s more."""
    assert measure_student(*with_dim(planted(monkeypatch))) == pytest.approx(0.5 + 0.5)
    assert measure_student(*with_dim(planted(monkeypatch, objective="2q"))) == pytest.approx(0.5 + 0.5 + 0.5)


def test_the_loss_is_extrapolated_to_the_anchors_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_step, "MOST_ANCHORS", 100)
    assert measure_loss(*with_dim(planted(monkeypatch))) == pytest.approx(0.5 * 1000 / 100)
    assert measure_loss(*with_dim(planted(monkeypatch, gpus=2))) == pytest.approx(0.5 * 500 / 100)


def with_dim(planned: tuple[PlanConfig, NetworkCosts]) -> tuple[PlanConfig, int, NetworkCosts, torch.device]:
    return planned[0], 3072, planned[1], CPU


def test_images_are_normalized_on_the_device_that_trains(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    class Loader:
        def __init__(self, *files: object, device: torch.device, **settings: object) -> None:
            devices.append(device.type)

        def __len__(self) -> int:
            return 1

        def epoch(self, epoch: int) -> list[object]:
            return []

    monkeypatch.setattr(measured_step, "ImageLoader", Loader)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: devices.append("waited for"))
    measure_loader(PlanConfig(dataset=packed), packed_images(packed), 8, torch.device("cuda"))
    assert devices == ["cuda", "waited for"]
