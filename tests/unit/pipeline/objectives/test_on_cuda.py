"""Every objective on a fake CUDA device: where its tensors live, and how often a step waits for the device."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cache.layout import SplitShape
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.running_softmax import product
from pipeline.objectives.simclr import SimCLR
from pipeline.objectives.streamed import SimilarityLoss
from tests.support.fake_cuda import CUDA, SynchronizingCalls, backward, fake_cuda
from tests.support.objective_cases import BATCH, CASES, NAMES, Steps, objectives
from tests.support.tiny_batch import STUDENT_DIM
from tests.support.tiny_store import written

ROWS, TEACHER_DIM = 60, 6
deepcopy_warns = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    return written(path, SplitShape(rows=ROWS, views=1, dim=TEACHER_DIM))


def cuda_batch(views: int, *, live: bool) -> Batch:
    teacher = torch.empty(BATCH, TEACHER_DIM, dtype=torch.float32 if live else torch.float16, device=CUDA)
    return Batch(
        images=tuple(torch.empty(BATCH, 3, 4, 4, device=CUDA) for _ in range(views)),
        rows=torch.zeros(BATCH, dtype=torch.int64, device=CUDA),
        labels=torch.zeros(BATCH, dtype=torch.int64, device=CUDA),
        teacher=teacher,
        teacher_norm=torch.empty(BATCH, device=CUDA) if live else None,
    )


@pytest.fixture(autouse=True)
def clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """k-means is faiss's, which knows no fake tensors."""

    def found(embedding: np.ndarray, clusters: int, **_: object) -> tuple[np.ndarray, np.ndarray]:
        return embedding[:clusters], np.zeros(len(embedding), np.int64)

    monkeypatch.setattr("pipeline.neighbours.kmeans", found)


@deepcopy_warns
@pytest.mark.parametrize(("name", "changes"), CASES, ids=NAMES)
def test_forward_backward_and_after_step_run_on_cuda(
    split: Split, name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = "live_teacher" in changes
    students = [Steps(objective) for objective in objectives(split, name, changes, count=2)]
    with fake_cuda(monkeypatch), SynchronizingCalls(number=BATCH):
        for student in students:
            student.start(CUDA)
        for _ in range(3):
            batch = cuda_batch(students[0].objective.views, live=live)
            for student in students:
                student.run(batch)
                parameters = student.network.parameters()
                assert all(each.grad is not None and each.grad.device == CUDA for each in parameters)


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
    step = Steps(objectives(split, name, changes)[0])
    with fake_cuda(monkeypatch), SynchronizingCalls(number=filled) as found:
        step.start(CUDA)
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


def test_bfloat16_products_are_summed_and_kept_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU a product of bfloat16 matrices is rounded to bfloat16, which is most of its error."""
    with fake_cuda(monkeypatch):
        query, anchors = (torch.empty(rows, 8, dtype=torch.bfloat16, device=CUDA) for rows in (3, 5))
        with RecordedProducts() as found:
            product(query, anchors.T, torch.float32)
    assert found.dtypes == [torch.float32]


@pytest.mark.parametrize("tf32", [True, False])
def test_both_sides_of_the_loss_use_tf32_if_they_may(monkeypatch: pytest.MonkeyPatch, tf32: bool) -> None:
    loss = SimilarityLoss(tau=0.04, tf32=tf32)
    for device, expected in ((CUDA, [tf32, tf32]), (torch.device("cpu"), [False, False])):
        with fake_cuda(monkeypatch):
            query, anchors = (torch.empty(rows, 8, device=device) for rows in (3, 5))
            with RecordedProducts() as found:
                loss(query, query, anchors, anchors)
        assert found.tf32 == expected
    assert torch.backends.cuda.matmul.allow_tf32 is False


class RecordedProducts(TorchDispatchMode):
    """The dtypes in which matrix products leave their operator, and whether TF32 is on for them."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes, self.tf32 = list[torch.dtype](), list[bool]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.mm:
            self.dtypes.append(result.dtype)
            self.tf32.append(torch.backends.cuda.matmul.allow_tf32)
        return result
