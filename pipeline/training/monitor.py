"""What --eval-every shows of a student while it trains, on centre crops of the validation images.

k-NN accuracy where there are labels, and how closely it follows its teacher. Every rank takes part of the images.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from cache.reader import Split
from cache.rows import spread
from pipeline.evaluate import fidelity
from pipeline.evaluate.features import unit_rows
from pipeline.evaluate.fidelity import NEIGHBOURS, Embedding, Rows, most_similar, nearest
from pipeline.evaluate.knn import NEIGHBOURS as VOTERS
from pipeline.evaluate.knn import accuracies
from pipeline.images.dataset import Dataset, DatasetSplit
from pipeline.images.labelled import label_problem
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.models.students import Student
from pipeline.runtime.distributed import World, broadcast
from pipeline.settings.training import DistillConfig, PretrainConfig

BATCH = 256
ANCHORS = 2048
MOST = max(*VOTERS, NEIGHBOURS)


@dataclass(frozen=True, kw_only=True)
class TeacherSplits:
    """The teacher's cache of the training images and of the validation images."""

    train: Split
    val: Split


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A network's features. query (m, D): of all validation images. anchors (K, D): of some training images.

    near: int64 (m, k), the training rows nearest to each validation image, the nearest first.
    """

    query: Embedding
    anchors: Embedding
    near: Rows


class Monitor:
    """Evaluates a student with training rows as neighbours of the validation images; with labels, labelled ones only.

    rows: the training rows. teacher: its cache, for fidelity; None: without.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        config: DistillConfig | PretrainConfig,
        world: World,
        device: torch.device,
        teacher: TeacherSplits | None = None,
    ) -> None:
        self.config, self.world, self.device, self.teacher = config, world, device, teacher
        self.train, self.val = dataset.splits["train"], dataset.splits["val"]
        self.has_labels = label_problem(dataset, rows) is None
        val_rows = np.flatnonzero(self.val.readable)
        if self.has_labels:
            rows = rows[self.train.labels[rows] >= 0]
            val_rows = val_rows[self.val.labels[val_rows] >= 0]
        self.val_rows = val_rows
        # consecutive rows, so that of equally near ones the lowest stays first
        self.own_rows = np.array_split(rows, world.size)[world.rank].astype(np.int64)
        self.own_val_rows = np.array_split(val_rows, world.size)[world.rank]
        anchors = spread(rows, ANCHORS)
        self.own_anchors = np.intersect1d(self.own_rows, anchors, assume_unique=True)
        self.compared = (
            np.isin(val_rows, teacher.val.eligible()) if teacher else np.zeros(len(val_rows), bool)
        )
        self.of_teacher: Measured | None = None

    def loader(self, split: DatasetSplit, rows: np.ndarray) -> ImageLoader:
        """Return a loader of these rows, in their order."""
        order = Order(rows=rows, batch=BATCH, shuffle=False, drop_last=False)
        size, workers = self.config.image_size, self.config.workers
        return ImageLoader(split.beton, order, image_size=size, workers=workers, device=self.device)

    def evaluate(self, student: Student) -> dict[str, float]:
        """Return what was measured, by name, on every rank. Leaves the student in training mode.

        nn1, nn20: fractions. recall10: the share of the teacher's ten nearest training images that are among the
        student's. divergence: `fidelity.divergence` to the teacher. Both are means over the validation images.
        """
        student.eval()
        for buffer in student.buffers():
            broadcast(buffer)  # each rank has its own running statistics since the last step
        with self.world.together():
            train = self.features(student, self.train, self.own_rows)
            val = self.features(student, self.val, self.own_val_rows)
        student.train()
        query = np.concatenate(self.world.gather(val))
        found = self.measure(query, lambda rows: train[np.searchsorted(self.own_rows, rows)])
        measured: dict[str, float] = {}
        if self.has_labels:
            voters = self.train.labels[found.near[:, : max(VOTERS)]]
            measured |= accuracies(voters, self.val.labels[self.val_rows])
        return measured | dict(self.compare(found))

    def compare(self, student: Measured) -> Iterator[tuple[str, float]]:
        """Yield how closely a student follows its teacher, whose own neighbours are searched once."""
        if self.teacher is None or not self.compared.any():
            return
        if self.of_teacher is None:
            with self.world.together():
                query = unit_rows(self.teacher.val, self.val_rows[self.compared])
            self.of_teacher = self.measure(query, partial(unit_rows, self.teacher.train))
        teacher, query = self.of_teacher, student.query[self.compared]
        near = student.near[self.compared, :NEIGHBOURS]
        recalls = fidelity.recall(near, teacher.near[:, :NEIGHBOURS])
        yield from fidelity.means(
            recalls, fidelity.divergence(query, student.anchors, teacher.query, teacher.anchors)
        )

    def measure(self, query: Embedding, read: Callable[[Rows], Embedding]) -> Measured:
        """Find what belongs to queries (m, D) among all training rows. read: as for `nearest`, of this rank's rows."""
        with self.world.together():
            own = nearest(read, self.own_rows, query, MOST, self.device)
            own_anchors = read(self.own_anchors)
        anchors = np.concatenate(self.world.gather(own_anchors))
        return Measured(query=query, anchors=anchors, near=most_similar(self.world.gather(own), MOST)[1])

    @torch.inference_mode()
    def features(self, student: Student, split: DatasetSplit, rows: np.ndarray) -> NDArray[np.float32]:
        """Return the features of images, of unit length: (n, dim); there may be none."""
        embeddings = [torch.empty(0, student.dim)]
        loader = self.loader(split, rows)
        for batch in loader.epoch(0) if len(loader) else ():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp_dtype == "bf16"):
                feature = student(batch.images[0])
            embeddings.append(torch.nn.functional.normalize(feature.float(), dim=1).cpu())
        return torch.cat(embeddings).numpy()


def in_words(measured: Mapping[str, float]) -> str:
    """Return what a monitor measured as one line for the terminal."""
    known = {
        "nn1": "1-NN {:.1%}",
        "nn20": "20-NN {:.1%}",
        "recall10": "{:.0%} of the teacher's neighbours",
        "divergence": "divergence {:.3f}",
    }
    return ", ".join(text.format(measured[name]) for name, text in known.items() if name in measured)
