"""Copies to a device that runs late: no buffer is overwritten before its copy, and nothing is read before its copy."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pipeline.loading.staging import SLOTS, PinnedStaging, start_fetch
from tests.support.late_streams import LateCopies, LateEvent, LateStream

ROWS = 4


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[LateCopies]:
    copies = LateCopies()
    copies.install(monkeypatch)
    with copies:
        yield copies


def batch(number: int, rows: int = ROWS) -> tuple[Tensor, ...]:
    """Pixels, rows and the teacher's rows of a batch, each filled with its number."""
    return (
        torch.full((rows, 2, 2, 3), number, dtype=torch.uint8),
        torch.full((rows,), number),
        torch.full((rows, 5), number, dtype=torch.uint16),
    )


def sent(staging: PinnedStaging, number: int, rows: int = ROWS) -> tuple[Tensor, ...]:
    """Copy a batch to the device, and overwrite the source at once, as FFCV would."""
    source = batch(number, rows)
    copies = staging.to_device(source)
    for tensor in source:
        tensor.zero_()
    return copies


def same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))


def test_no_buffer_is_overwritten_before_its_copy(device: LateCopies) -> None:
    staging = PinnedStaging(torch.device("cpu"), ROWS)
    batches = [sent(staging, number) for number in range(1, 3 * SLOTS)]
    device.user.finish(len(device.user.work))
    assert all(same(found, batch(number)) for number, found in enumerate(batches, start=1))


def test_the_computing_stream_waits_for_the_copies(device: LateCopies) -> None:
    staging = PinnedStaging(torch.device("cpu"), ROWS)
    copies = sent(staging, 7)
    read: list[bool] = []
    device.user.work.append(lambda: read.append(same(copies, batch(7))))
    assert staging.stream.done == 0, "the call waited for the device"
    device.user.finish(len(device.user.work))
    assert read == [True]


def test_the_copies_memory_is_kept_for_the_computing_stream(device: LateCopies) -> None:
    copies = sent(PinnedStaging(torch.device("cpu"), ROWS), 7)
    assert [tensor is copy for (tensor, _), copy in zip(device.used, copies, strict=True)] == [True] * 3
    assert {stream for _, stream in device.used} == {device.user}


def test_the_buffers_are_allocated_once_and_hold_smaller_batches(
    device: LateCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        "pipeline.loading.staging.pinned",
        lambda shape, dtype: made.append(shape) or torch.empty(shape, dtype=dtype),
    )
    staging = PinnedStaging(torch.device("cpu"), ROWS)
    sizes = [1, ROWS, 2] * SLOTS
    batches = [sent(staging, number, rows) for number, rows in enumerate(sizes)]
    device.user.finish(len(device.user.work))
    assert all(
        same(found, batch(n, rows)) for n, (found, rows) in enumerate(zip(batches, sizes, strict=True))
    )
    assert made == [(ROWS, 2, 2, 3), (ROWS,), (ROWS, 5)] * SLOTS


def test_a_buffer_is_filled_after_its_event_and_before_its_copy(
    device: LateCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class RecordedEvent(LateEvent):
        def synchronize(self) -> None:
            calls.append("buffers are free")
            super().synchronize()

        def record(self, stream: LateStream) -> None:
            calls.append(f"{len(stream.work)} copies queued")
            super().record(stream)

    monkeypatch.setattr(torch.cuda, "Event", RecordedEvent)
    staging = PinnedStaging(torch.device("cpu"), ROWS)
    for number in range(2):
        sent(staging, number)
    assert calls == ["buffers are free", "3 copies queued", "buffers are free", "6 copies queued"]


class Result:
    """A result on a GPU, and the pinned buffer that it is fetched into, in one."""

    device, shape, dtype = torch.device("cuda"), (2, 3), torch.float32

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def copy_(self, source: "Result", *, non_blocking: bool) -> "Result":
        self.calls.append(f"copy, {non_blocking = }")
        return self

    def numpy(self) -> str:
        self.calls.append("read")
        return "values"


def test_a_result_is_read_after_its_copy_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    LateCopies().install(monkeypatch)
    calls: list[str] = []

    class RecordedEvent(LateEvent):
        def synchronize(self) -> None:
            calls.append("wait")

        def record(self, stream: LateStream) -> None:
            calls.append("record")

    monkeypatch.setattr(torch.cuda, "Event", RecordedEvent)
    result = Result(calls)
    monkeypatch.setattr("pipeline.loading.staging.pinned", lambda shape, dtype: result)
    fetch = start_fetch(result)
    assert calls == ["copy, non_blocking = True", "record"]
    assert fetch() == "values"
    assert calls[2:] == ["wait", "read"]
