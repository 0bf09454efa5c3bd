"""Every objective, in each of its forms, and its training steps on a device."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import OBJECTIVES, build_objectives, resolved
from pipeline.objectives.simclr import SimCLR
from pipeline.settings.training import DistillConfig
from tests.support.tiny_batch import STUDENT_DIM

BATCH = 8
PLACES = {name: Path(name) for name in ("dataset", "cache", "run")}
CASES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in OBJECTIVES],
    ("1q", {"loss_dtype": "bf16"}),
    ("1q", {"anchor_policy": "kmeans", "anchors": "8"}),
    ("1q-reg-bn", {"loss_dtype": "bf16"}),
    ("1q-reg-bn", {"live_teacher": True}),
    ("seed", {"loss_dtype": "bf16"}),
    ("2q", {"momentum": 0.0}),
    ("2q", {"live_teacher": True}),
    ("reg-bn", {"live_teacher": True}),
    ("crd", {"live_teacher": True}),
    ("simclr", {}),
]
NAMES = [" ".join([name, *changes]) for name, changes in CASES]


def trained_rows(split: Split) -> np.ndarray:
    """Return the rows with an embedding and a label."""
    eligible = split.eligible()
    return eligible[split.label[eligible] >= 0]


def objectives(split: Split, name: str, changes: dict[str, Any], count: int = 1) -> list[Objective]:
    """Return the objectives of `count` students that share a pass; float32 is float32."""
    if name == "simclr":
        return [SimCLR(STUDENT_DIM)]
    small = {"batch_size": BATCH, "anchors": "20", "negatives": 9, "amp_dtype": "fp32"}
    config = DistillConfig(**PLACES, objective=name, **(small | changes))
    return build_objectives(resolved(config), [STUDENT_DIM] * count, split, trained_rows(split))


class Steps:
    """Training steps of an objective. Objective and network are built on the CPU, and moved by `start`."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.step = objective, 0
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(48, STUDENT_DIM), objective.head())

    def start(self, device: torch.device) -> None:
        self.network.to(device)
        self.objective.to(device).start(self.network)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.1, momentum=0.9)

    def run(self, batch: Batch) -> Tensor:
        """Do one step and return the loss; the gradients stay until the next."""
        embeddings = tuple(self.network(view) for view in batch.images)
        loss = self.objective(embeddings, batch, self.step)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.objective.after_step(self.network, embeddings, batch, self.step)
        self.step += 1
        return loss.detach()

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the last step on the CPU, in the order of the parameters."""
        found = [each.grad for each in self.network.parameters()]
        return [each.cpu() for each in found if each is not None]
