"""The collectives that training uses, over NCCL with one rank on a GPU, and over gloo on the CPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipeline.objectives.shards import gather_slots, maximum_over_ranks, slots_of_rank, sum_over_ranks
from pipeline.runtime.distributed import (
    all_gather,
    any_rank,
    broadcast,
    init_distributed,
    shutdown_distributed,
)


@pytest.fixture
def one_rank(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of one rank, joined as a command joins one of several."""
    backend = "gloo" if device.type == "cpu" else "nccl"
    options = {} if device.type == "cpu" else {"device_id": device}
    dist.init_process_group(
        backend, init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1, **options
    )
    yield
    shutdown_distributed()


@pytest.mark.usefixtures("one_rank")
def test_with_one_rank_they_change_nothing(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    world = init_distributed(device)
    assert (world.rank, world.size, world.gather("word")) == (0, 1, ["word"])
    rows = torch.arange(6.0, device=device).view(3, 2).requires_grad_()
    gathered = all_gather(rows)
    gathered.square().sum().backward()
    assert rows.grad is not None
    assert torch.equal(gathered.detach(), rows.detach())
    assert torch.equal(rows.grad, 2 * rows.detach())
    kept = rows.detach().clone()
    for collective in (sum_over_ranks, maximum_over_ranks, broadcast):
        collective(kept)
    assert torch.equal(kept, rows.detach())
    assert torch.equal(gather_slots(kept, 3).to(device), kept)
    assert (slots_of_rank(3), any_rank(True, device), any_rank(False, device)) == (range(3), True, False)
