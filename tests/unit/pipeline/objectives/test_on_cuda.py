"""Every objective on a fake CUDA device: where its tensors live, and how often a step waits for the device."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cache.layout import SplitShape
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import OBJECTIVES, build_objectives, resolved
from pipeline.objectives.simclr import SimCLR
from pipeline.settings.training import DistillConfig
from tests.support.fake_cuda import CUDA, SynchronizingCalls, backward, fake_cuda
from tests.support.tiny_batch import STUDENT_DIM
from tests.support.tiny_store import written

ROWS, TEACHER_DIM, BATCH = 60, 6, 8
PLACES = {name: Path(name) for name in ("dataset", "cache", "run")}
CASES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in OBJECTIVES],
    ("1q", {"loss_dtype": "bf16"}),
    ("seed", {"loss_dtype": "bf16"}),
    ("2q", {"momentum": 0.0}),
    ("2q", {"live_teacher": True}),
    ("reg-bn", {"live_teacher": True}),
    ("crd", {"live_teacher": True}),
    ("simclr", {}),
]
deepcopy_warns = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
NAMES = [" ".join([name, *changes]) for name, changes in CASES]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    return written(path, SplitShape(rows=ROWS, views=1, dim=TEACHER_DIM))


def trained_rows(split: Split) -> np.ndarray:
    """Return the rows with an embedding and a label."""
    eligible = split.eligible()
    return eligible[split.label[eligible] >= 0]


def objectives(split: Split, name: str, changes: dict[str, Any], count: int = 1) -> list[Objective]:
    if name == "simclr":
        return [SimCLR(STUDENT_DIM)]
    config = DistillConfig(**PLACES, objective=name, batch_size=BATCH, anchors="20", negatives=9, **changes)
    return build_objectives(resolved(config), [STUDENT_DIM] * count, split, trained_rows(split))


def cuda_batch(views: int, *, live: bool) -> Batch:
    teacher = torch.empty(BATCH, TEACHER_DIM, dtype=torch.float32 if live else torch.float16, device=CUDA)
    return Batch(
        images=tuple(torch.empty(BATCH, 3, 4, 4, device=CUDA) for _ in range(views)),
        rows=torch.zeros(BATCH, dtype=torch.int64, device=CUDA),
        labels=torch.zeros(BATCH, dtype=torch.int64, device=CUDA),
        teacher=teacher,
        teacher_norm=torch.empty(BATCH, device=CUDA) if live else None,
    )


class Step:
    """Training steps of an objective on the fake device. Objective and network are built on the CPU."""

    def __init__(self, objective: Objective, *, live: bool) -> None:
        self.objective, self.live, self.step = objective, live, 0
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(48, STUDENT_DIM), objective.head())

    def start(self) -> None:
        self.network.to(CUDA)
        self.objective.to(CUDA).start(self.network)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.1, momentum=0.9)

    def run(self, batch: Batch) -> None:
        embeddings = tuple(self.network(view) for view in batch.images)
        loss = self.objective(embeddings, batch, self.step)
        self.optimizer.zero_grad()
        loss.backward()
        assert all(each.grad is not None and each.grad.device == CUDA for each in self.network.parameters())
        self.optimizer.step()
        self.objective.after_step(self.network, embeddings, batch, self.step)
        self.step += 1


@pytest.fixture(autouse=True)
def clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """k-means is faiss's, which knows no fake tensors."""
    found = lambda embedding, *_: (None, np.zeros(len(embedding), np.int64))  # noqa: E731
    monkeypatch.setattr("pipeline.neighbours.kmeans", found)


@deepcopy_warns
@pytest.mark.parametrize(("name", "changes"), CASES, ids=NAMES)
def test_forward_backward_and_after_step_run_on_cuda(
    split: Split, name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = "live_teacher" in changes
    students = [Step(objective, live=live) for objective in objectives(split, name, changes, count=2)]
    with fake_cuda(monkeypatch), SynchronizingCalls(number=BATCH):
        for student in students:
            student.start()
        for _ in range(3):
            batch = cuda_batch(students[0].objective.views, live=live)
            for student in students:
                student.run(batch)


@deepcopy_warns
@pytest.mark.parametrize(("name", "changes"), CASES, ids=NAMES)
@pytest.mark.parametrize(("filled", "most"), [(BATCH, 1), (10 * ROWS, 0)])
def test_a_step_does_not_wait_for_the_device(
    split: Split,
    name: str,
    changes: dict[str, Any],
    filled: int,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until the queue of 2q is full, the number of its keys is read; it is the only value that is."""
    live = "live_teacher" in changes
    step = Step(objectives(split, name, changes)[0], live=live)
    with fake_cuda(monkeypatch), SynchronizingCalls(number=filled) as found:
        step.start()
        batch = cuda_batch(step.objective.views, live=live)
        step.run(batch)
        step.run(batch)
        found.calls.clear()
        step.run(batch)
    assert found.calls == ["aten._local_scalar_dense.default"] * (most if name == "2q" else 0)


def test_a_tensor_on_another_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch):
        query = torch.ones(3, device=CUDA, requires_grad=True)
        loss = WrongGradient.apply(query)
        with pytest.raises(RuntimeError, match="device"):
            query.add(torch.ones(3))
        with pytest.raises(RuntimeError, match="device"):
            loss.backward()


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor) -> torch.Tensor:
        return query.sum()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> torch.Tensor:
        return upstream * torch.ones(3)


def test_backward_node_by_node_is_that_of_the_engine() -> None:
    torch.manual_seed(0)
    network = SimCLR(STUDENT_DIM).head()
    features, found = torch.randn(BATCH, STUDENT_DIM), []
    for run in (torch.Tensor.backward, backward):
        network.zero_grad()
        output = network(features)
        run((output * output.softmax(1)).sum())
        found.append([each.grad for each in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
