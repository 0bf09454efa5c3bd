"""k-NN accuracy of a student while it trains, on center crops. Every rank takes part of the images."""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluate.features import LabeledFeatures
from pipeline.evaluate.knn import NEIGHBOURS, accuracies
from pipeline.images.dataset import Dataset, DatasetSplit
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.models.students import Student
from pipeline.runtime.distributed import World, broadcast
from pipeline.settings.training import DistillConfig, PretrainConfig

BATCH = 256


class KnnMonitor:
    """k-NN accuracy on the validation split, with the training rows as neighbours."""

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        config: DistillConfig | PretrainConfig,
        world: World,
        device: torch.device,
    ) -> None:
        self.config, self.world, self.device = config, world, device
        val = dataset.splits["val"]
        self.classes = len(val.classes)
        self.train = self.loader(dataset.splits["train"], rows)
        self.val = self.loader(val, np.flatnonzero(val.readable))

    def loader(self, split: DatasetSplit, rows: np.ndarray) -> ImageLoader:
        """Return a loader of this rank's part of the labelled rows, which are consecutive ones."""
        labelled = rows[split.labels[rows] >= 0]
        own = np.array_split(labelled, self.world.size)[self.world.rank]
        order = Order(rows=own, batch=BATCH, shuffle=False, drop_last=False)
        size, workers = self.config.image_size, self.config.workers
        return ImageLoader(split.beton, order, image_size=size, workers=workers, device=self.device)

    def evaluate(self, student: Student) -> dict[str, float]:
        """Return "nn1" and "nn20", as fractions, on every rank. Leaves the student in training mode."""
        student.eval()
        for buffer in student.buffers():
            broadcast(buffer)  # each rank has its own running statistics since the last step
        with self.world.together():
            train, val = (self.features(student, loader) for loader in (self.train, self.val))
        student.train()
        parts = self.world.gather((val.embedding, val.label))
        queries, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
        with self.world.together():
            found = self.nearest(train, queries)
        return dict(accuracies(merged(self.world.gather(found)), truth))

    @torch.inference_mode()
    def features(self, student: Student, loader: ImageLoader) -> LabeledFeatures:
        """Return the features of a loader's images, of unit length; there may be none."""
        embeddings, labels = [torch.empty(0, student.dim)], [torch.empty(0, dtype=torch.int64)]
        for batch in loader.epoch(0) if len(loader) else ():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp_dtype == "bf16"):
                feature = student(batch.images[0])
            embeddings.append(torch.nn.functional.normalize(feature.float(), dim=1).cpu())
            labels.append(batch.labels.cpu())
        return LabeledFeatures(torch.cat(embeddings).numpy(), torch.cat(labels).numpy(), self.classes)

    def nearest(
        self, train: LabeledFeatures, queries: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return similarities and labels (m, k) of the rows of this rank's part that are nearest to the queries."""
        from pipeline.neighbours import knn  # here, so that training without --eval-every needs no faiss

        most = min(max(NEIGHBOURS), len(train.label))
        if not most:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        similarity, index = knn(train.embedding, queries, most, self.device)
        return similarity, train.label[index]


def merged(found: list[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> NDArray[np.int64]:
    """Return the labels of the nearest rows of all ranks' parts, nearest first, and of equally near ones the lowest."""
    similarity, labels = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    order = np.argsort(-similarity, axis=1, kind="stable")[:, : max(NEIGHBOURS)]
    return np.take_along_axis(labels, order, axis=1)
