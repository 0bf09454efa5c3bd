"""k-NN accuracy of a student while it trains, on center crops."""

import numpy as np
import torch

from pipeline.evaluate.features import LabeledFeatures
from pipeline.evaluate.knn import evaluate
from pipeline.images.dataset import Dataset, DatasetSplit
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.models.students import Student
from pipeline.settings.training import DistillConfig, PretrainConfig

BATCH = 256


class KnnMonitor:
    """k-NN accuracy on the validation split, with the training rows as neighbours."""

    def __init__(
        self, dataset: Dataset, rows: np.ndarray, config: DistillConfig | PretrainConfig, device: str
    ) -> None:
        self.device, self.config = device, config
        val = dataset.splits["val"]
        self.classes = len(val.classes)
        self.train = self.loader(dataset.splits["train"], rows)
        self.val = self.loader(val, np.flatnonzero(val.readable))

    def loader(self, split: DatasetSplit, rows: np.ndarray) -> ImageLoader:
        rows = rows[split.labels[rows] >= 0]
        order = Order(rows=rows, batch=BATCH, shuffle=False, drop_last=False)
        size, workers = self.config.image_size, self.config.workers
        return ImageLoader(split.beton, order, image_size=size, workers=workers, device=self.device)

    def evaluate(self, student: Student) -> dict[str, float]:
        """Return "nn1" and "nn20", as fractions. Leaves the student in training mode."""
        student.eval()
        train, val = (self.features(student, loader) for loader in (self.train, self.val))
        student.train()
        return dict(evaluate(train, val))

    @torch.inference_mode()
    def features(self, student: Student, loader: ImageLoader) -> LabeledFeatures:
        embeddings, labels = [], []
        for batch in loader.epoch(0):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.config.amp_dtype == "bf16"):
                feature = student(batch.images[0])
            embeddings.append(torch.nn.functional.normalize(feature.float(), dim=1).cpu())
            labels.append(batch.labels.cpu())
        return LabeledFeatures(torch.cat(embeddings).numpy(), torch.cat(labels).numpy(), self.classes)
