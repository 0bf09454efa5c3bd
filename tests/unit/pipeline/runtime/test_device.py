"""Each rank computes on its own GPU, which is chosen once and before anything uses one."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import pipeline
from pipeline.errors import WrongUse
from pipeline.runtime.device import CPU, gpu_record, resolve_device
from pipeline.runtime.distributed import TIMEOUT, init_distributed


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two planted GPUs, and rank 5 of 8, the second one of its machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Model {device.index}")
    ranks = {"WORLD_SIZE": 8, "RANK": 5, "LOCAL_WORLD_SIZE": 2, "LOCAL_RANK": 1}
    for name, value in ranks.items():
        monkeypatch.setenv(name, str(value))
    return monkeypatch


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_rank_has_the_gpu_of_its_number_on_its_machine(two_gpus: pytest.MonkeyPatch, name: str) -> None:
    assert resolve_device(name) == torch.device("cuda", 1)
    assert resolve_device("cpu") == CPU


def test_without_a_launcher_it_is_the_first_gpu(two_gpus: pytest.MonkeyPatch) -> None:
    two_gpus.delenv("LOCAL_RANK")
    two_gpus.delenv("LOCAL_WORLD_SIZE")
    assert resolve_device("auto") == torch.device("cuda", 0)


def test_more_ranks_than_gpus_are_refused(two_gpus: pytest.MonkeyPatch) -> None:
    two_gpus.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(WrongUse, match="3 ranks on this machine need a GPU each, and PyTorch finds 2: start"):
        resolve_device("auto")
    assert resolve_device("cpu") == CPU


def test_the_gpu_is_set_before_the_ranks_meet_and_the_group_gets_it(two_gpus: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def init_process_group(backend: str, *, timeout: timedelta, device_id: torch.device) -> None:
        calls.append(("init_process_group", backend, timeout, device_id))

    two_gpus.setattr(torch.cuda, "set_device", lambda device: calls.append(("set_device", device)))
    two_gpus.setattr(dist, "is_initialized", lambda: False)
    two_gpus.setattr(dist, "init_process_group", init_process_group)
    two_gpus.setattr(dist, "new_group", lambda backend, timeout: calls.append(("new_group", backend)))
    two_gpus.setattr(dist, "get_rank", lambda: 5)
    two_gpus.setattr(dist, "get_world_size", lambda: 8)
    own = torch.device("cuda", 1)
    world = init_distributed(resolve_device("cuda"))
    assert (world.rank, world.size, world.local_rank) == (5, 8, 1)
    assert calls == [
        ("set_device", own),
        ("init_process_group", "nccl", TIMEOUT, own),
        ("new_group", "gloo"),
    ]


def test_a_record_names_the_gpu_and_adds_nothing_on_the_cpu(two_gpus: pytest.MonkeyPatch) -> None:
    assert gpu_record(torch.device("cuda", 1)) == {"device": "cuda", "gpu": "Model 1"}
    assert gpu_record(CPU) == {}


def test_the_device_is_named_in_one_place() -> None:
    root = Path(pipeline.__file__).parent
    named = [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*.py"))
        if re.search(r"""["']cuda|\.cuda\(""", path.read_text())
    ]
    assert named == ["runtime/device.py"]
