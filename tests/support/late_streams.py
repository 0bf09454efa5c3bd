"""CUDA streams on the CPU that run as late as is allowed: what is not waited for has not happened yet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.loading import staging


class LateStream:
    """A queue of work. `finish(n)` runs its first n items, if they have not run yet."""

    def __init__(self, device: object = None) -> None:
        self.work: list[Callable[[], object]] = []
        self.done = 0

    def finish(self, count: int) -> None:
        while self.done < count:
            self.done += 1
            self.work[self.done - 1]()

    def wait_event(self, event: "LateEvent") -> None:
        self.work.append(event.recorded)


class LateEvent:
    """A place in a stream's queue; before `record`, none."""

    def __init__(self, *, blocking: bool) -> None:
        self.recorded: Callable[[], object] = lambda: None

    def record(self, stream: LateStream) -> None:
        count = len(stream.work)
        self.recorded = lambda: stream.finish(count)

    def synchronize(self) -> None:
        self.recorded()


class LateCopies(TorchDispatchMode):
    """Queues asynchronous copies in the current stream; everything else runs at once.

    user: the stream that computes. copying: the stream in the innermost `torch.cuda.stream`. used: for each call of
    Tensor.record_stream, the tensor and the stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self.user = self.current = LateStream()
        self.used: list[tuple[Tensor, LateStream]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.copy_.default or args[2:] != (True,):
            return func(*args, **kwargs or {})
        target, source = args[:2]
        self.current.work.append(lambda: torch.from_numpy(target.numpy()).copy_(source))
        return target

    @contextmanager
    def stream(self, stream: LateStream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put these streams in the place of CUDA's."""
        monkeypatch.setattr(torch.cuda, "Stream", LateStream)
        monkeypatch.setattr(torch.cuda, "Event", LateEvent)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(
            Tensor, "record_stream", lambda tensor, stream: self.used.append((tensor, stream))
        )
        monkeypatch.setattr(staging, "pinned", lambda shape, dtype: torch.empty(shape, dtype=dtype))
